"""Few-shot and SGD probes against scikit-learn and plain loops, and what holds for all evaluations on frozen features."""

import dataclasses

import numpy as np
import pytest
from labelled_features import cluster_splits, with_several_labels
from sklearn.linear_model import LogisticRegression

from sslshift.transfer import linear_probe, logistic
from sslshift.transfer.evaluation import Split, Splits, fit_standardiser
from sslshift.transfer.few_shot import FewShot, draw_shots
from sslshift.transfer.knn import KNN
from sslshift.transfer.linear_probe import LinearProbe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.sgd_probe import SGDProbe, order

ACCURACY = METRICS["accuracy"]
PRECISION = METRICS["average_precision"]


@pytest.fixture
def splits(random):
    return cluster_splits(random)


@pytest.fixture
def several(splits, random):
    return with_several_labels(splits, random)


def with_other_test_labels(splits):
    labels = splits.test.labels
    other = 1 - labels if labels.ndim == 2 else (labels + 1) % splits.classes
    return splits._replace(test=Split(splits.test.features, other))


SMALL = {
    "knn": KNN(),
    "linear": LinearProbe(),
    "few_shot": FewShot(shots=(1, 5), draws=3),
    "sgd": SGDProbe(learning_rates=(0.03, 0.3), epochs=4, batch_size=64, decay_epochs=(2,)),
}


def test_of_equally_good_choices_the_first_declared_wins():
    """Every choice is right of two far groups."""
    features = np.repeat([[1.0, 0], [0, 1]], 20, axis=0).astype(np.float32)
    split = Split(features, np.repeat([0, 1], 20))
    splits = Splits(split, split, split, 2)
    chosen = KNN(neighbours=(7, 3), temperatures=(0.2, 0.1))(splits, ACCURACY)["knn"].chosen
    assert chosen == {"neighbours": 7, "temperature": 0.2}
    assert LinearProbe(strengths=(1e-2, 1e-3, 1e-4))(splits, ACCURACY)["linear"].chosen == {"strength": 1e-2}
    sgd = SGDProbe(learning_rates=(0.3, 0.1), epochs=3)(splits, ACCURACY)["sgd"]
    assert sgd.chosen == {"learning_rate": 0.3}
    assert sgd.validation == 1


def test_the_weakest_penalty_is_tried_if_the_next_one_is_the_best(splits, monkeypatch):
    """With validation scores that are made up: the choice is the best of all unless the weakest is best on its own."""
    calls = []

    def chosen(scores):
        # Keys are penalties in any order, as a user may declare them.
        strengths = tuple(scores)
        falling = sorted(strengths, reverse=True)
        waiting = []
        real = linear_probe._fit

        def fit(features, labels, classes, penalties, iterations, tolerance, strongest):
            calls.append(strongest)
            waiting[:] = [each for each in strengths if each in falling[:strongest]]
            return real(features, labels, classes, penalties, 2, tolerance, strongest)

        with monkeypatch.context() as patched:
            patched.setattr(linear_probe, "_fit", fit)
            patched.setattr(linear_probe, "score", lambda metric, given, split: scores[waiting.pop(0)])
            before = len(calls)
            found = LinearProbe(strengths=strengths)(splits, ACCURACY)["linear"]
        return found.chosen["strength"], found.validation, len(calls) - before

    assert chosen({1e-3: 0.5, 1e-1: 0.7, 1e-2: 0.8, 1e-4: 0.4}) == (1e-2, 0.8, 1)
    assert chosen({1e-3: 0.8, 1e-1: 0.6, 1e-2: 0.7, 1e-4: 0.9}) == (1e-4, 0.9, 2)
    assert chosen({1e-1: 0.6, 1e-2: 0.7, 1e-3: 0.8, 1e-4: 0.7}) == (1e-3, 0.8, 2)
    assert chosen({1e-1: 0.6, 1e-2: 0.7}) == (1e-2, 0.7, 1)


def test_penalties_that_are_left_out_change_no_other_solution(splits):
    features, labels, classes = splits.train.features, splits.train.labels, splits.classes
    settings = {"classes": classes, "l2_penalties": (1e-3, 1e-1, 1e-2), "iterations": 100, "tolerance": 1e-6}
    given = np.asarray(features, np.float32)[None], np.asarray(labels)[None]
    every, some = (logistic.fit_regressions(*given, **settings, strongest=count) for count in (3, 2))
    for place in (1, 2):
        np.testing.assert_array_equal(every.weights[0, place], some.weights[0, place])
    assert np.isinf(some.excess[0, 0])


def test_draws_are_nested_balanced_and_of_different_images(random):
    labels = random.permutation(np.repeat([0, 2, 5], [30, 9, 17]))
    one = draw_shots(labels, 1, 4)
    five = draw_shots(labels, 5, 4)
    assert five.shape == (4, 15)
    for few, more in zip(one, five, strict=True):
        assert set(few) <= set(more)
        assert len(set(more)) == 15
        np.testing.assert_array_equal(np.unique(labels[more], return_counts=True)[1], [5, 5, 5])
    assert len({tuple(sorted(each)) for each in five}) == 4
    # All images of a class come in some draw.
    everything = draw_shots(labels, 5, 60)
    assert set(everything.ravel()) == set(range(len(labels)))


def test_draws_do_not_depend_on_the_features(splits, monkeypatch):
    seen = []
    fit = logistic.fit_regressions

    def watched(features, labels, **settings):
        seen.append(labels)
        return fit(features, labels, **settings)

    monkeypatch.setattr("sslshift.transfer.few_shot.fit_regressions", watched)
    other = splits._replace(train=Split(splits.train.features[::-1] ** 2, splits.train.labels))
    for each in (splits, other):
        SMALL["few_shot"](each, ACCURACY)
    places = draw_shots(splits.train.labels, 5, 3)
    np.testing.assert_array_equal(seen[1], splits.train.labels[places])
    np.testing.assert_array_equal(seen[3], seen[1])


@pytest.mark.parametrize("shots", [2, 20])
def test_few_shot_is_the_regression_on_each_draw(splits, shots):
    """Two shots are fewer images than dimensions, twenty are more."""
    outcome = FewShot(shots=(shots,), draws=3, strengths=(0.1,))(splits, ACCURACY)[f"few_shot_{shots}"]
    standard = fit_standardiser(splits.train.features)
    values = []
    for predictions, places in zip(outcome.predictions, draw_shots(splits.train.labels, shots, 3), strict=True):
        model = LogisticRegression(C=1 / (0.1 * len(places)), tol=1e-8, max_iter=5000)
        model.fit(standard(splits.train.features[places]), splits.train.labels[places])
        assert (predictions == model.predict(standard(splits.test.features))).mean() > 0.99
        values.append(model.score(standard(splits.validation.features), splits.validation.labels))
    assert outcome.predictions.shape == (3, 170)
    assert outcome.validation == pytest.approx(np.mean(values), abs=0.01)


def test_few_shot_chooses_the_best_strength_on_average(splits):
    single = [FewShot(shots=(5,), draws=4, strengths=(each,)) for each in (1e-3, 1.0, 1e3)]
    values = [evaluation(splits, ACCURACY)["few_shot_5"].validation for evaluation in single]
    outcome = FewShot(shots=(5,), draws=4, strengths=(1e-3, 1.0, 1e3))(splits, ACCURACY)["few_shot_5"]
    assert outcome.validation == pytest.approx(max(values), abs=0.005)
    assert outcome.chosen == {"strength": (1e-3, 1.0, 1e3)[int(np.argmax(values))]}


def test_more_shots_than_images_are_excluded_with_a_reason(splits):
    found = FewShot(shots=(1, 300), draws=2)(splits, ACCURACY)
    assert found["few_shot_1"].predictions.shape == (2, 170)
    missing = found["few_shot_300"]
    assert missing.predictions.shape == (0, 170)
    assert np.isnan(missing.validation)
    fewest = np.bincount(splits.train.labels)
    assert missing.notes == (f"Excluded: class {fewest.argmin()} has {fewest.min()} training images, fewer than 300.",)


def test_few_shot_of_several_labels_is_not_defined(several):
    outcome = FewShot(shots=(1,), draws=2)(several, PRECISION)["few_shot_1"]
    assert outcome.predictions.shape == (0, 170, 3)
    assert "several labels" in outcome.notes[0]


def plain_sgd(features, labels, rate, evaluation, classes):
    """The recipe as a loop in float64."""
    count, dim = features.shape
    batch = min(evaluation.batch_size, count)
    target = labels if labels.ndim == 2 else np.eye(classes)[labels]
    weights = np.zeros((dim, classes))
    bias = np.zeros(classes)
    velocity = np.zeros((dim, classes)), np.zeros(classes)
    for epoch in range(evaluation.epochs):
        step = rate * 0.1 ** sum(epoch >= decay for decay in evaluation.decay_epochs)
        places = np.asarray(order(epoch, count))
        assert sorted(places) == list(range(count))
        for start in range(0, count - batch + 1, batch):
            some = places[start : start + batch]
            logits = features[some] @ weights + bias
            if labels.ndim == 2:
                share = 1 / (1 + np.exp(-logits))
            else:
                share = np.exp(logits - logits.max(axis=1, keepdims=True))
                share /= share.sum(axis=1, keepdims=True)
            away = (share - target[some]) / batch
            found = features[some].T @ away, away.sum(axis=0)
            velocity = tuple(evaluation.momentum * v + g for v, g in zip(velocity, found, strict=True))
            weights = weights - step * velocity[0]
            bias = bias - step * velocity[1]
    return weights, bias


@pytest.mark.parametrize("which", ["splits", "several"])
@pytest.mark.parametrize("batch_size", [30, 1000])
def test_sgd_probe_against_a_plain_loop(request, which, batch_size):
    """400 images are 13 batches of 30, with 10 images unused in each epoch; or one batch that is smaller than requested."""
    train, *_, classes = request.getfixturevalue(which)
    evaluation = SGDProbe(learning_rates=(0.02, 0.2), batch_size=batch_size, epochs=5, decay_epochs=(2, 4))
    weights, bias = evaluation.fit(train.features, train.labels, classes)
    for place, rate in enumerate(evaluation.learning_rates):
        expected = plain_sgd(train.features.astype(float), train.labels, rate, evaluation, classes)
        np.testing.assert_allclose(weights[place], expected[0], atol=1e-5)
        np.testing.assert_allclose(bias[place], expected[1], atol=1e-5)


def test_orders_differ_between_epochs():
    assert not np.array_equal(order(0, 50), order(1, 50))
    np.testing.assert_array_equal(order(3, 50), order(3, 50))


def test_learning_rates_that_diverge_lose(splits):
    """Huge features overflow at the first rate, though it comes first and wins every tie."""
    huge = Splits(*(Split(each.features * np.float32(1e15), each.labels) for each in splits[:3]), 4)
    evaluation = dataclasses.replace(SMALL["sgd"], learning_rates=(1e10, 1e-30))
    outcome = evaluation(huge, ACCURACY)["sgd"]
    assert not np.isfinite(evaluation.fit(huge.train.features, huge.train.labels, 4)[0][0]).all()
    assert outcome.chosen == {"learning_rate": 1e-30}
    assert outcome.validation > 0.5
    nothing = dataclasses.replace(evaluation, learning_rates=(1e10, 1e11))(huge, ACCURACY)["sgd"]
    assert nothing.predictions.shape == (0, 170)
    assert nothing.notes == ("Excluded: training diverged at every learning rate.",)


def test_sgd_probe_evaluates_the_last_epoch(splits):
    """A rate that oscillates at the end is evaluated after its last epoch, not after its best one."""
    evaluation = SGDProbe(learning_rates=(0.1,), epochs=6, batch_size=50, decay_epochs=(3,))
    outcome = evaluation(splits, ACCURACY)["sgd"]
    weights, bias = plain_sgd(splits.train.features.astype(float), splits.train.labels, 0.1, evaluation, 4)
    expected = [(each.features @ weights + bias).argmax(axis=1) for each in splits[1:3]]
    assert outcome.validation == np.mean(expected[0] == splits.validation.labels)
    np.testing.assert_array_equal(outcome.predictions, expected[1])


@pytest.mark.parametrize("name", SMALL)
def test_choices_and_predictions_do_not_depend_on_test_labels(splits, name):
    one, other = (SMALL[name](each, ACCURACY) for each in (splits, with_other_test_labels(splits)))
    assert one.keys() == other.keys()
    for key, outcome in one.items():
        assert other[key].chosen == outcome.chosen
        assert other[key].validation == outcome.validation
        np.testing.assert_array_equal(other[key].predictions, outcome.predictions)


@pytest.mark.parametrize("name", SMALL)
def test_what_can_be_learned_is_learned_and_noise_is_not(splits, name, random):
    noise = splits._replace(train=Split(splits.train.features, random.permutation(splits.train.labels)))
    for key, outcome in SMALL[name](splits, ACCURACY).items():
        least = 0.45 if key == "few_shot_1" else 0.7
        assert np.mean(outcome.predictions == splits.test.labels) > least
    for outcome in SMALL[name](noise, ACCURACY).values():
        assert np.mean(outcome.predictions == splits.test.labels) < 0.45


@pytest.mark.parametrize("name", ["knn", "linear", "sgd"])
def test_several_labels_are_ranked(several, name):
    (outcome,) = SMALL[name](several, PRECISION).values()
    assert outcome.predictions.shape == (170, 3)
    assert PRECISION.value(outcome.predictions, several.test.labels) > several.test.labels.mean() + 0.2
    assert 0 < outcome.validation <= 1


@pytest.mark.parametrize("name", ["knn", "linear", "sgd", "few_shot"])
def test_scores_of_single_labels_are_kept_where_the_metric_ranks(splits, name):
    for outcome in SMALL[name](splits, PRECISION).values():
        assert outcome.predictions.shape[-2:] == (170, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KNN(neighbours=(0,)), "at least 1"),
        (lambda: KNN(temperatures=(0.0,)), "above 0"),
        (lambda: LinearProbe(strengths=()), "finite l2 penalties above 0"),
        (lambda: LinearProbe(strengths=(0.0, 1.0)), "finite l2 penalties above 0"),
        (lambda: FewShot(shots=(0,)), "at least 1"),
        (lambda: FewShot(shots=(5, 5)), "different numbers of shots"),
        (lambda: SGDProbe(learning_rates=(-1.0,)), "above 0"),
        (lambda: SGDProbe(momentum=1.0), "momentum in"),
    ],
)
def test_settings_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
