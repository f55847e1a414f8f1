"""The laws against values computed by hand, and against independent loops."""

import math

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from sslshift.planning.fitting import Data
from sslshift.planning.laws import Exposure, laws
from sslshift.planning.null import fit_null

# One pilot of 1,000 images seen once, so that D_0 = 1,000.
REFERENCE = Exposure.of_single([0], [1000], [1000])
SHIFT = np.array([0.0, 0.5])


def error(name, theta, training, shift=SHIFT):
    return laws(shift, REFERENCE)[name].error(np.array([theta], float), training)[0]


def test_an_image_seen_once_is_worth_one_image():
    # 4,000 images once: D / D_0 = 4, and 0.1 + 0.2 / sqrt(4) = 0.2.
    once = Exposure.of_single([0], [4000], [4000])
    np.testing.assert_allclose(error("discount", [0.1, 0.2, 0.5, math.log(10), 2, 0, 0], once), 0.2)


def test_repetition_loses_its_value():
    # 1,000 images in 11 epochs with R = 10: 1,000 (1 + 10 (1 - exp(-1))).
    repeated = Exposure.of_single([0], [1000], [11_000])
    amount = 1 + 10 * (1 - math.exp(-1))
    np.testing.assert_allclose(
        error("discount", [0.1, 0.2, 0.5, math.log(10), 2, 0, 0], repeated), 0.1 + 0.2 / math.sqrt(amount)
    )


def test_shift_and_a_source_of_its_own_discount_data():
    shifted = Exposure.of_single([1], [1000], [1000])
    # k s + d = 2 * 0.5 + 0.3.
    np.testing.assert_allclose(
        error("discount", [0.1, 0.2, 0.5, math.log(10), 2, 0, 0.3], shifted), 0.1 + 0.2 * math.exp(0.5 * 1.3)
    )


def test_the_penalty_grows_with_the_root_of_the_repetitions():
    repeated = Exposure.of_single([0], [1000], [5000])
    plain = error("discount", [0.1, 0.2, 0.5, math.log(10), 2, 0, 0], repeated)
    np.testing.assert_allclose(error("penalty", [0.1, 0.2, 0.5, math.log(10), 2, 0.01, 0, 0], repeated), plain + 0.02)


def test_a_floor_is_what_no_number_of_images_removes():
    endless = Exposure.of_single([0, 1], [1e15, 1e15], [1e15, 1e15])
    found = error("floor", [0.1, 0.2, 0.5, math.log(10), 0.3, 0.01, 0.02], endless)
    np.testing.assert_allclose(found, [0.11, 0.1 + 0.15 + 0.02], atol=1e-6)


def test_the_half_life_is_near_the_product_over_epochs():
    tau = 3.0
    for epochs in (1, 2, 8, 40):
        # The integral over parts of an epoch is the limit of the product over ever shorter epochs.
        steps = np.arange(1, 1000 * (epochs - 1) + 1) / 1000 + 1
        gained = np.sum(2 ** (-(steps - 0.0005 - 1) / tau) * np.log(steps / (steps - 0.001)))
        expected = 0.1 + 0.2 * math.exp(-0.5 * gained)
        found = error(
            "half_life", [0.1, 0.2, 0.5, math.log(tau), 2, 0, 0, 0, 0], Exposure.of_single([0], [1000], [1000 * epochs])
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_mixture_adds_the_amounts_of_its_parts():
    mixture = Exposure.of_rows([[(0, 1000, 500), (1, 400, 800)], [(1, 100, 100)]])
    theta = [0.1, 0.2, 0.5, math.log(10), 2, 0, 0]
    # Only 500 of the 1,000 images of the first source are seen.
    second = 400 * (1 + 10 * (1 - math.exp(-1 / 10))) * math.exp(-1)
    np.testing.assert_allclose(
        error("discount", theta, mixture),
        [0.1 + 0.2 * ((500 + second) / 1000) ** -0.5, 0.1 + 0.2 * (100 * math.exp(-1) / 1000) ** -0.5],
    )
    np.testing.assert_allclose(mixture.share, [500 / 1300, 800 / 1300, 1])


def test_trainings_can_be_taken_in_any_order():
    mixture = Exposure.of_rows([[(0, 10, 5), (1, 4, 8)], [(1, 1, 1)], [(0, 7, 7), (1, 2, 9)]])
    taken = mixture.take([2, 0])
    np.testing.assert_array_equal(taken.row, [0, 0, 1, 1])
    np.testing.assert_array_equal(taken.seen, [7, 9, 5, 8])


@pytest.mark.parametrize("name", ["discount", "penalty", "floor", "half_life"])
def test_more_images_never_hurt_at_one_budget_and_parameters_line_up_with_priors(name):
    law = laws(SHIFT, REFERENCE)[name]
    unique = np.geomspace(10, 10_000, 20)
    random = np.random.default_rng(0)
    theta = np.clip(law.means + 0.3 * law.sds * random.standard_normal((50, len(law.priors))), law.low, law.high)
    found = law.error(theta, Exposure.of_single([0] * 20, unique, [10_000] * 20))
    assert (np.diff(found, axis=1) <= 1e-12).all()
    assert len(law.means) == theta.shape[1]


def test_a_source_of_unknown_shift_has_a_wide_prior_of_its_own():
    law = laws(np.array([0.2, np.nan]), REFERENCE)["discount"]
    known, unknown = (prior for prior in law.priors if prior.source is not None)
    assert unknown.sd > 2 * known.sd


def test_a_prior_can_be_switched_off_by_its_name_only():
    assert math.isinf(laws(SHIFT, REFERENCE, ["k"])["discount"].priors[4].sd)
    with pytest.raises(ValueError, match=r"Expected parameters among e, b_0, .*, got q"):
        laws(SHIFT, REFERENCE, ["q"])


def exact(training, accuracy):
    return Data(training, np.array(accuracy), 1e-12 * np.eye(len(accuracy)))


def test_the_null_is_the_isotonic_regression_in_its_range():
    training = Exposure.of_single([0] * 4, [10, 100, 1000, 10_000], [10_000] * 4)
    accuracy = [0.5, 0.7, 0.6, 0.8]
    fitted = fit_null(exact(training, accuracy), 20, 0)
    expected = isotonic_regression(np.array(accuracy)).x
    np.testing.assert_allclose(fitted.predict(training).mean(axis=0), expected, atol=1e-4)
    between = Exposure.of_single([0], [math.sqrt(1e7)], [10_000])
    np.testing.assert_allclose(fitted.predict(between).mean(), (expected[2] + expected[3]) / 2, atol=1e-4)


def test_the_null_goes_on_with_a_part_of_its_slope():
    training = Exposure.of_single([0] * 4, [100, 1000, 100, 1000], [1000, 1000, 4000, 4000])
    fitted = fit_null(exact(training, [0.5, 0.6, 0.55, 0.65]), 400, 0)
    further = fitted.predict(Exposure.of_single([0], [1000], [16_000]))[:, 0]
    # Between no gain and the whole gain of the last factor of four.
    assert 0.649 < further.min() < 0.66
    assert 0.69 < further.max() < 0.701


def test_the_null_goes_on_falling_where_training_longer_harms():
    training = Exposure.of_single([0] * 4, [100, 1000, 100, 1000], [1000, 1000, 4000, 4000])
    fitted = fit_null(exact(training, [0.6, 0.65, 0.5, 0.55]), 400, 0)
    further = fitted.predict(Exposure.of_single([0], [1000], [16_000]))[:, 0]
    assert 0.449 < further.min() < 0.46
    assert 0.54 < further.max() < 0.551


def test_the_null_takes_the_mean_of_the_others_for_a_source_without_pilots():
    training = Exposure.of_single([0, 1, 0, 1], [100, 100, 1000, 1000], [1000] * 4)
    fitted = fit_null(exact(training, [0.5, 0.7, 0.5, 0.7]), 2000, 0)
    unseen = fitted.predict(Exposure.of_single([2], [100], [1000]))[:, 0]
    np.testing.assert_allclose(unseen.mean(), 0.6, atol=0.01)
    assert unseen.std() > 0.04
