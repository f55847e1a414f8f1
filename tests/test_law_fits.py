"""Fits of laws: against SciPy's optimiser, exact linear algebra, simulated noise, and the refusals of the average."""

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from sslshift.planning.averaging import forecast
from sslshift.planning.fitting import Data, fit_law, predict_left_out
from sslshift.planning.laws import Exposure, laws
from sslshift.planning.noise import Noise, covariance_of_means, estimate_noise
from sslshift.planning.pilots import PilotRun, SourcePlace, gather

SHIFT = np.array([0.1, 0.5, 0.8])
THETA = [0.15, 0.2, 0.4, math.log(12), 1.5, 0.1, -0.2, 0.1]
CELLS = [(i, budget // epochs, budget) for i in range(3) for budget in (10_000, 40_000) for epochs in (1, 4, 16, 64)]


def pilots_of(theta=THETA, name="discount", noise=0.004, seeds=3, seed=0, cells=CELLS, shift=SHIFT):
    training = Exposure.of_single(*zip(*cells, strict=True))
    truth = 1 - laws(shift, training)[name].error(np.array([theta]), training)[0]
    random = np.random.default_rng(seed)
    runs = [
        PilotRun(f"s{i}", unique, budget, str(each), accuracy + noise * random.standard_normal(), 5000)
        for (i, unique, budget), accuracy in zip(cells, truth, strict=True)
        for each in range(seeds)
    ]
    return gather(runs, {f"s{i}": SourcePlace(value, value, value) for i, value in enumerate(shift)})


@pytest.mark.parametrize("name", ["discount", "penalty", "floor", "half_life"])
def test_a_fit_is_the_minimum_that_scipy_finds(name):
    data = pilots_of().data
    law = laws(SHIFT, data.training)[name]
    fit = fit_law(law, data, 4, 0)
    whitening = np.linalg.inv(np.linalg.cholesky(data.covariance))

    def residuals(theta):
        return np.concatenate(
            [whitening @ (law.error(theta[None], data.training)[0] - 1 + data.accuracy), (theta - law.means) / law.sds]
        )

    found = least_squares(residuals, np.clip(law.means, law.low + 1e-6, law.high), bounds=(law.low, law.high), x_scale="jac")
    assert (residuals(fit.theta) ** 2).sum() <= 2 * found.cost + 1e-3


def test_draws_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(20):
        data = pilots_of(seed=seed).data
        # The noise of test images is not simulated here: the runs' own noise is all there is.
        data = Data(data.training, data.accuracy, 0.004**2 / 3 * np.eye(len(data.accuracy)))
        law = laws(SHIFT, data.training)["discount"]
        further = Exposure.of_single([0, 1, 2], [40_000, 20_000, 80_000], [160_000] * 3)
        low, high = np.quantile(fit_law(law, data, 200, seed).predict(further), [0.05, 0.95], axis=0)
        truth = 1 - law.error(np.array([THETA]), further)[0]
        held.append(np.mean((low <= truth) & (truth <= high)))
    assert 0.8 <= np.mean(held) <= 1.0


def test_the_right_law_is_kept_and_a_wrong_one_rejected():
    found = forecast(pilots_of([0.15, 0.08, 0.4, math.log(12), 3.0, 0, 0, 0], noise=0.001))
    results = {result.name: result for result in found.results}
    assert not results["discount"].refused
    assert results["discount"].parameters["R"] == pytest.approx(12, rel=0.3)
    assert results["floor"].weight == 0
    assert "lack of fit" in results["floor"].refused
    assert sum(result.weight for result in found.results) == pytest.approx(1)


def test_a_block_left_out_is_predicted_as_by_a_fit_without_it():
    data = pilots_of().data
    law = laws(SHIFT, data.training)["discount"]
    block = [0, 1, 2, 3]
    (mean, covariance), _ = predict_left_out(law, data, [block, [4]])
    rest = np.setdiff1d(np.arange(len(data.accuracy)), block)
    part = Data(data.training.take(rest), data.accuracy[rest], data.covariance[np.ix_(rest, rest)])
    fit = fit_law(law, part, 400, 0)
    np.testing.assert_allclose(mean, 1 - law.error(fit.theta[None], data.training.take(block))[0], atol=2e-3)
    spread = fit.predict(data.training.take(block)).std(axis=0)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance) - np.diag(data.covariance)[block]), spread, rtol=0.35)


def test_parameters_that_the_pilots_do_not_identify_are_named():
    once = [(i, unique, unique) for i in range(3) for unique in (5000, 10_000, 20_000, 40_000, 80_000)]
    fit = fit_law(laws(SHIFT, pilots_of(cells=once).data.training)["discount"], pilots_of(cells=once).data, 200, 0)
    assert any("R = " in note and "rests on its prior alone" in note for note in fit.notes)


def test_one_budget_is_said_and_is_not_left():
    found = forecast(pilots_of(cells=[(i, unique, 40_000) for i in range(3) for unique in (500, 1000, 4000, 10_000, 40_000)]))
    assert not found.extrapolates
    assert any("same budget" in each or "the budget 40,000" in each for each in found.warnings)


def test_four_numbers_of_images_carry_no_law():
    found = forecast(pilots_of(cells=[(i, budget // 4**j, budget) for i in range(3) for budget in (16_000,) for j in range(4)]))
    assert list(found.fits) == ["monotone"]
    assert all("5 different numbers" in result.refused for result in found.results[1:])


def test_with_few_sources_the_prior_of_the_discount_is_named_or_the_laws_are_refused():
    assert any("rests on its prior (k: 1.5" in each for each in forecast(pilots_of()).warnings)
    assert list(forecast(pilots_of(), flat=["k"]).fits) == ["monotone"]


def test_a_source_without_pilots_needs_a_shift():
    pilots = pilots_of()
    places = {**dict(zip(pilots.sources, pilots.shift, strict=True)), "unseen": SourcePlace(0.4, 0.3, 0.5)}
    found = forecast(gather(pilots.runs, places))
    index = found.pilots.sources.index("unseen")
    seen = found.predict(Exposure.of_single([found.pilots.sources.index("s1")], [10_000], [40_000])).std()
    assert found.predict(Exposure.of_single([index], [10_000], [40_000])).std() > seen
    with pytest.raises(ValueError, match="unseen has neither pilots nor a shift index"):
        forecast(gather(pilots.runs, {**places, "unseen": SourcePlace()}))


def test_a_forecast_is_the_same_twice():
    further = Exposure.of_single([0], [10_000], [160_000])
    first, second = (forecast(pilots_of()).predict(further) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_wrong_forecasts_of_the_dearest_budget_widen_what_lies_beyond():
    pilots = pilots_of()
    # All pilots at the larger budget are five points better than the law would have them.
    moved = [run._replace(accuracy=run.accuracy + 0.05 * (run.budget == 40_000)) for run in pilots.runs]
    found = forecast(gather(moved, dict(zip(pilots.sources, pilots.shift, strict=True))))
    assert min(found.inflation) > 1.5


def test_noise_of_a_balanced_design_is_that_of_the_analysis_of_variance():
    random = np.random.default_rng(0)
    accuracy = random.normal(size=(6, 4))
    cell, seed = np.divmod(np.arange(24), 4)
    found = estimate_noise(cell, seed, accuracy.ravel())
    rows, columns = accuracy.mean(axis=1, keepdims=True), accuracy.mean(axis=0, keepdims=True)
    rest = ((accuracy - rows - columns + accuracy.mean()) ** 2).sum() / 15
    between = 6 * ((columns - accuracy.mean()) ** 2).sum() / 3
    np.testing.assert_allclose([found.run, found.seed], [rest, max(0, (between - rest) / 6)])
    assert found.degrees == 15


def test_noise_is_found_where_only_one_source_has_seeds():
    random = np.random.default_rng(0)
    cell = np.array([*np.repeat(np.arange(300), 3), *range(300, 400)])
    seed = np.array([*np.tile(np.arange(3), 300), *np.zeros(100, int)])
    effects = np.array([-0.003, 0.0, 0.003])
    found = estimate_noise(cell, seed, effects[seed] + 0.002 * random.standard_normal(len(cell)))
    assert math.sqrt(found.run) == pytest.approx(0.002, rel=0.1)
    assert math.sqrt(found.seed) == pytest.approx(0.003, rel=0.1)


def test_the_covariance_of_means_is_that_of_simulated_means():
    cell = np.array([0, 0, 0, 1, 1, 2])
    seed = np.array([0, 1, 2, 0, 1, 0])
    noise = Noise(0.003**2, 0.002**2, 10)
    random = np.random.default_rng(0)
    effects = 0.003 * random.standard_normal((200_000, 3))
    drawn = effects[:, seed] + 0.002 * random.standard_normal((200_000, 6))
    means = np.stack([drawn[:, cell == each].mean(axis=1) for each in range(3)], axis=1)
    # So many test images that they make no noise.
    found = covariance_of_means(noise, cell, seed, np.full(3, 0.8), np.full(3, 1e12))
    np.testing.assert_allclose(found, np.cov(means, rowvar=False), rtol=0.03)


def test_runs_without_repeats_are_refused():
    with pytest.raises(ValueError, match="3 seeds or more, got at most 2"):
        pilots_of(seeds=2)
