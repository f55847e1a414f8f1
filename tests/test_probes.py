"""Evaluations on frozen features: kNN, linear probe, few-shot and SGD probe against plain loops and scikit-learn."""

import dataclasses

import hypothesis
import hypothesis.extra.numpy
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax import lax
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import NearestNeighbors

from sslshift.transfer import knn, lbfgs, logistic
from sslshift.transfer.evaluation import Split, Splits
from sslshift.transfer.few_shot import FewShot, draw_shots
from sslshift.transfer.inputs import standard_of
from sslshift.transfer.knn import KNN, knn_scores, nearest
from sslshift.transfer.linear_probe import LinearProbe, fit_probe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.sgd_probe import SGDProbe, order

ACCURACY = METRICS["accuracy"]
PRECISION = METRICS["average_precision"]


def clusters(random, count, dim=12, classes=4, spread=0.7):
    centres = np.random.default_rng(7).normal(size=(classes, dim)) * spread
    labels = random.integers(0, classes, count)
    return (centres[labels] + random.normal(size=(count, dim))).astype(np.float32), labels


def several_labels(random, features, classes=3):
    directions = np.random.default_rng(8).normal(size=(features.shape[1], classes))
    return (features @ directions + random.normal(size=(len(features), classes)) > 1).astype(np.uint8)


@pytest.fixture
def splits(random):
    return Splits(*(Split(*clusters(random, count, spread=1.0)) for count in (400, 150, 170)), 4)


@pytest.fixture
def several(splits, random):
    """The same images, each with any of three labels."""
    return Splits(*(Split(each.features, several_labels(random, each.features)) for each in splits[:3]), 3)


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


def by_similarity(train, test, neighbours):
    """Similarities and indices by a loop over the images, in float64."""
    unit = [each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-300) for each in (train, test)]
    found = []
    for image in unit[1]:
        similarity = unit[0] @ image
        found.append([(similarity[j], j) for j in sorted(range(len(train)), key=lambda j: (-similarity[j], j))[:neighbours]])
    return np.array(found)[..., 0], np.array(found)[..., 1].astype(int)


# Vectors of 4^a entries of 1 and -1 have a norm that is a power of two: their cosines are exact in any order of the sums.
SIGNS = hypothesis.extra.numpy.arrays(
    np.int8,
    strategies.tuples(strategies.integers(1, 70), strategies.sampled_from([4, 16])),
    elements=strategies.sampled_from([-1, 1]),
)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(SIGNS, strategies.integers(1, 70), strategies.integers(1, 9), strategies.integers(0, 1 << 30))
def test_ties_go_to_the_earlier_image_exactly(train, neighbours, block, seed):
    test = np.random.default_rng(seed).choice([-1, 1], (5, train.shape[1]))
    test[0] = train[-1]
    neighbours = min(neighbours, len(train))
    similarity, index = nearest(train, test, neighbours, block=block)
    expected = by_similarity(train.astype(float), test.astype(float), neighbours)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_array_equal(similarity, expected[0].astype(np.float32))


@pytest.mark.parametrize("neighbours", [1, 7, 40, 3000])
def test_copies_of_images_come_in_their_order(random, neighbours):
    """In 37 dimensions nothing is exact, but copies of an image are equally similar wherever they stand."""
    originals = random.normal(size=(30, 37)).astype(np.float32)
    which = random.integers(0, 30, 3000)
    similarity, index = nearest(originals[which], originals[:20] + 0.1, neighbours)
    for place in range(20):
        pairs = list(zip(-similarity[place], index[place], strict=True))
        assert pairs == sorted(pairs)
        for original in range(30):
            found = index[place][which[index[place]] == original]
            np.testing.assert_array_equal(found, np.flatnonzero(which == original)[: len(found)])


def test_nearest_in_stretches_and_blocks_is_the_same(random, monkeypatch):
    # Signs of 16 features: unit vectors and their products are exact, whatever order a processor's products are summed in.
    train = random.choice([-1, 1], (500, 16))
    test = random.choice([-1, 1], (90, 16))
    whole = nearest(train, test, 30)
    monkeypatch.setattr(knn, "_TRAIN_AT_ONCE", 64)
    monkeypatch.setattr(knn, "_AT_ONCE", 64 * 7)
    for one, other in zip(whole, nearest(train, test, 30), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nearest_agrees_with_scikit_learn(random):
    train = random.normal(size=(2000, 64)).astype(np.float32)
    test = random.normal(size=(100, 64)).astype(np.float32)
    similarity, index = nearest(train, test, 50)
    distance, expected = NearestNeighbors(n_neighbors=50, metric="cosine").fit(train).kneighbors(test)
    np.testing.assert_allclose(similarity, 1 - distance, atol=1e-5)
    assert (index == expected).mean() > 0.999


def test_selection_against_xla(random):
    """XLA's selection has the same rule for ties."""
    values = random.integers(-3, 4, (40, 200)).astype(np.float32) / 3 * random.choice([-0.0, 1.0], (40, 200)).astype(np.float32)
    expected = lax.top_k(jnp.asarray(values + 0.0), 25)
    found = knn._top_k(values, np.arange(200), 25)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_similarity_of_zeros_and_of_huge_and_tiny_features():
    train = np.array([[-1.0, 0], [0, 0], [1e30, 0], [0, 1e-30], [3e-42, 0]], np.float32)
    similarity, index = nearest(train, np.array([[1e25, 0], [0, 0]], np.float32), 5)
    np.testing.assert_array_equal(index, [[2, 4, 1, 3, 0], [0, 1, 2, 3, 4]])
    np.testing.assert_allclose(similarity, [[1, 1, 0, 0, -1], [0] * 5])


@pytest.mark.parametrize(
    ("train", "test", "neighbours", "message"),
    [
        ([[1, 2], [np.nan, 1]], [[1, 2]], 1, "1 training images, image 1 first, have features that are not finite"),
        ([[1, 2]], [[1, np.inf]], 1, "1 test images, image 0 first"),
        ([[1, 2]], [[1, 2, 3]], 1, "not of 2 and 3 dimensions"),
        ([[1, 2]], [[1, 2]], 2, "1 to 1 neighbours"),
        ([1, 2], [[1, 2]], 1, r"training features \[images, dim\]"),
    ],
)
def test_features_that_cannot_be_compared(train, test, neighbours, message):
    with pytest.raises(ValueError, match=message):
        nearest(np.array(train, float), np.array(test, float), neighbours)


def test_votes_of_several_labels_against_a_loop(several):
    train, _, test, classes = several
    scores = knn_scores(train.features, train.labels, test.features, neighbours=9, temperature=0.1, classes=classes)
    similarity, index = by_similarity(train.features.astype(float), test.features.astype(float), 9)
    for row, near, places in zip(scores, similarity, index, strict=True):
        weight = np.exp(near / 0.1)
        expected = sum(w * train.labels[j] for w, j in zip(weight, places, strict=True)) / weight.sum()
        np.testing.assert_allclose(row, expected, rtol=1e-4)
    assert scores.min() >= 0
    assert scores.max() <= 1


def test_the_grid_from_one_search_is_the_grid_from_many(splits):
    evaluation = KNN(neighbours=(50, 3, 1000), temperatures=(0.5, 0.02))
    outcome = evaluation(splits, ACCURACY)["knn"]
    values = {}
    for k in (50, 3, 400):
        for temperature in (0.5, 0.02):
            settings = {"neighbours": k, "temperature": temperature, "classes": 4}
            scores = [knn_scores(*splits.train[:2], each.features, **settings) for each in splits[1:3]]
            values[k, temperature] = np.mean(scores[0].argmax(1) == splits.validation.labels), scores[1].argmax(1)
    best = max(values, key=lambda choice: values[choice][0])
    assert outcome.chosen == {"neighbours": best[0], "temperature": best[1]}
    assert outcome.validation == values[best][0]
    np.testing.assert_array_equal(outcome.predictions, values[best][1])


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


def objective(probe, features, labels, strength, place):
    logits = probe.scores(features, place).astype(np.float64)
    weights = probe.weights[place]
    return of_logits(logits, labels) + strength / 2 * np.square(weights, dtype=np.float64).sum()


def of_logits(logits, labels):
    if labels.ndim == 2:
        return (np.logaddexp(0, logits) - labels * logits).sum(axis=1).mean()
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]).mean()


def scikit_learn(features, labels, strength, classes):
    """(objective, logits) of scikit-learn's optimum on features as they are, which are standardised."""
    model = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-9, max_iter=20_000)
    if labels.ndim == 2:
        model = OneVsRestClassifier(model).fit(features, labels)
        weights = np.concatenate([each.coef_ for each in model.estimators_])
        logits = model.decision_function(features)
    else:
        model.fit(features, labels)
        weights = model.coef_
        logits = np.full((len(labels), classes), -50.0)
        logits[:, model.classes_] = model.decision_function(features)
    return of_logits(logits.astype(np.float64), labels) + strength / 2 * np.square(weights).sum(), logits


def rare(random):
    labels = np.searchsorted([0.8, 0.95, 0.99], random.random(2000))
    return clusters(random, 2000)[0] + labels[:, None] * 0.5, labels


def correlated(random):
    features, labels = clusters(random, 2000, dim=60, spread=1.0)
    turn = np.linalg.qr(random.normal(size=(60, 60)))[0]
    return ((features / np.arange(1, 61) ** 1.5) @ turn).astype(np.float32), labels


PROBLEMS = {
    "clusters": lambda random: clusters(random, 2000),
    "correlated": correlated,
    "rare classes": rare,
    "a class without images": lambda random: (lambda x, y: (x, np.where(y == 1, 2, y)))(*clusters(random, 2000)),
    "more dimensions than images": lambda random: clusters(random, 80, dim=300, spread=0.1),
    "several labels": lambda random: (lambda x: (x, several_labels(random, x, 4)))(clusters(random, 2000)[0]),
    "several labels, more dimensions": lambda random: (lambda x: (x, several_labels(random, x, 4)))(
        clusters(random, 80, dim=300)[0]
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_probe_is_the_optimum_that_scikit_learn_finds(random, problem):
    features, labels = PROBLEMS[problem](random)
    strengths = (1e-4, 1e-2, 1.0)
    probe = fit_probe(features, labels, classes=4, strengths=strengths)
    standardised = standard_of(features)(features)
    for place, strength in enumerate(strengths):
        theirs, logits = scikit_learn(standardised, labels, strength, 4)
        assert objective(probe, features, labels, strength, place) == pytest.approx(theirs, abs=1e-5)
        ours = probe.scores(features, place)
        same = (ours > 0) == (logits > 0) if labels.ndim == 2 else ours.argmax(1) == logits.argmax(1)
        assert same.mean() >= 0.999
    assert (probe.excess < 6e-6).all()


def test_probe_of_two_classes(random):
    """scikit-learn's regression of two classes has one vector of weights; ours half of it for each, at twice the penalty."""
    features, labels = clusters(random, 1000, classes=2)
    probe = fit_probe(features, labels, classes=2, strengths=(1e-2,))
    standardised = standard_of(features)(features)
    model = LogisticRegression(C=2 / (1e-2 * 1000), tol=1e-9).fit(standardised, labels)
    np.testing.assert_allclose(np.diff(probe.weights[0])[:, 0], model.coef_[0], atol=3e-3)


def direct(features, labels, strength, classes):
    """Newton's method on all weights of the standardised features, in float64."""
    count, dim = features.shape
    extended = np.hstack([features, np.ones((count, 1))]).astype(np.float64)
    target = np.eye(classes)[labels]
    penalty = np.diag(np.append(np.full(dim, strength), 0.0))
    weights = np.zeros((dim + 1, classes))
    for _ in range(50):
        share = np.exp(extended @ weights)
        share /= share.sum(axis=1, keepdims=True)
        gradient = extended.T @ (share - target) / count + penalty @ weights
        hessian = np.kron(penalty, np.eye(classes))
        for image, p in zip(extended, share, strict=True):
            hessian += np.kron(np.outer(image, image), np.diag(p) - np.outer(p, p)) / count
        # The bias is free up to a constant: any of the solutions.
        weights -= np.linalg.lstsq(hessian, gradient.ravel(), rcond=1e-12)[0].reshape(weights.shape)
    return weights[:-1], weights[-1]


@pytest.mark.parametrize("images", [12, 200])
def test_probe_against_newtons_method(random, images):
    features, labels = clusters(random, images, dim=25, classes=3)
    probe = fit_probe(features, labels, classes=3, strengths=(0.03,), tolerance=1e-8)
    weights, bias = direct(standard_of(features)(features), labels, 0.03, 3)
    np.testing.assert_allclose(probe.weights[0], weights, atol=2e-3)
    np.testing.assert_allclose(probe.bias[0] - probe.bias[0].mean(), bias - bias.mean(), atol=2e-3)


@pytest.mark.parametrize(("images", "dim"), [(300, 80), (100, 150)])
@pytest.mark.parametrize("axes", [20, 100])
def test_probe_too_large_to_decompose_has_the_same_optimum(random, monkeypatch, images, dim, axes):
    features, labels = clusters(random, images, dim=dim, spread=0.3)
    features = features * np.logspace(0, 2, 12 * dim)[:dim] @ random.normal(size=(dim, dim)).astype(np.float32)
    strengths = (1e-3, 1e-1)
    expected = fit_probe(features, labels, classes=4, strengths=strengths)
    monkeypatch.setattr(logistic, "_DECOMPOSED", 50)
    monkeypatch.setattr(logistic, "_SOME_IMAGES", 60)
    monkeypatch.setattr(logistic, "_SOME_AXES", min(axes, dim - 1))
    found = fit_probe(features, labels, classes=4, strengths=strengths)
    for place, strength in enumerate(strengths):
        assert objective(found, features, labels, strength, place) == pytest.approx(
            objective(expected, features, labels, strength, place), abs=1e-5
        )


@pytest.mark.parametrize("several", [False, True])
def test_probe_solved_in_parts_is_the_same(random, monkeypatch, several):
    """One strength at a time; 130 images are three parts of 44, filled up by two that must not count."""
    features, labels = clusters(random, 130)
    labels = several_labels(random, features, 4) if several else labels
    settings = {"classes": 4, "strengths": (1e-2, 1e-1, 1.0), "tolerance": 1e-9}
    whole = fit_probe(features, labels, **settings)
    monkeypatch.setattr(logistic, "_REMEMBERED", 1)
    monkeypatch.setattr(logistic, "_ROWS", 64)
    parts = fit_probe(features, labels, **settings)
    np.testing.assert_allclose(parts.weights, whole.weights, atol=3e-4)
    np.testing.assert_allclose(parts.bias - parts.bias.mean(), whole.bias - whole.bias.mean(), atol=3e-4)


def test_solved_regressions_are_left_out_and_keep_their_solution(random, monkeypatch):
    """Of six strengths three, then one remain; each is the same as if all had been evaluated to the end."""
    features, labels = rare(random)
    settings = {"classes": 4, "strengths": (1e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)}
    together = fit_probe(features, labels, **settings)
    sizes = []
    evaluate = logistic._Problem.__call__

    def watched(problem, points):
        sizes.append(len(points))
        return evaluate(problem, points)

    monkeypatch.setattr(lbfgs, "NARROWED", 1)
    monkeypatch.setattr(logistic._Problem, "__call__", watched)
    apart = fit_probe(features, labels, **settings)
    assert set(sizes) == {6, 3, 1}
    assert sizes == sorted(sizes, reverse=True)
    for place, strength in enumerate(settings["strengths"]):
        values = [objective(probe, features, labels, strength, place) for probe in (together, apart)]
        assert values[0] == pytest.approx(values[1], abs=3e-5)


@pytest.mark.parametrize("dim", [12, 200])
@pytest.mark.parametrize("several", [False, True])
def test_objectives_and_their_gradients(random, monkeypatch, several, dim):
    """Values by the formula; gradients by differences of values, of which float32 leaves few digits."""
    monkeypatch.setattr(logistic, "_ROWS", 64)
    features, labels = clusters(random, 2 * 130, dim=dim)
    labels = several_labels(random, features, 4) if several else labels
    features = features.reshape(2, 130, dim)
    labels = labels.reshape(2, 130, *labels.shape[1:])
    strengths = np.array([1e-2, 1.0], np.float32)
    coordinates = [logistic._coordinates(each) for each in features]
    reduced = np.stack([each.features for each in coordinates])
    problem = logistic._Problem(reduced, labels, 4, strengths, coordinates)
    points = problem.start() + random.normal(size=problem.start().shape).astype(np.float32) * 0.3
    value, gradient = problem(points)
    weights, bias = problem.parameters(points)
    for place in range(4):
        draw, which = divmod(place, 2)
        logits = reduced[draw].astype(np.float64) @ weights[draw, which] + bias[draw, which]
        penalty = strengths[which] / 2 * np.square(weights[draw, which], dtype=np.float64).sum()
        assert value[place] == pytest.approx(of_logits(logits, labels[draw]) + penalty, rel=1e-5)
    along = random.normal(size=points.shape).astype(np.float32)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    difference = (problem(points + 0.05 * along)[0] - problem(points - 0.05 * along)[0]) / 0.1
    np.testing.assert_allclose(np.sum(gradient * along, axis=1), difference, atol=2e-3)


def test_scales_and_constant_features_do_not_matter(random):
    features, labels = clusters(random, 500)
    scaled = features * np.float32(10.0) ** np.arange(-18, 18, 3) + np.float32(10.0) ** np.arange(-19, 17, 3)
    scaled = np.hstack([scaled, np.full((500, 1), 3e7), np.zeros((500, 1))]).astype(np.float32)
    plain = fit_probe(features, labels, classes=4, strengths=(1e-3,))
    other = fit_probe(scaled, labels, classes=4, strengths=(1e-3,))
    np.testing.assert_allclose(other.weights[0][:-2], plain.weights[0], atol=3e-3)
    np.testing.assert_allclose(other.scores(scaled, 0), plain.scores(features, 0), atol=1e-2)
    assert other.scale[-2:].tolist() == [1, 1]


def test_standard_of_many_blocks(random):
    features = (random.normal(size=(5000, 7)) * 0.01 + 1000).astype(np.float32)
    standard = standard_of(features)
    np.testing.assert_allclose(standard.mean, features.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(standard.scale, features.std(axis=0, dtype=np.float64), rtol=1e-9)


def test_a_fit_that_does_not_converge_says_so(splits):
    with pytest.warns(UserWarning, match="short of its optimum"):
        fit_probe(splits.train.features, splits.train.labels, classes=4, strengths=(1e-6,), iterations=3)
    outcome = LinearProbe(strengths=(1e-6, 1e-5), iterations=3)(splits, ACCURACY)["linear"]
    assert any("short of its optimum" in note for note in outcome.notes)
    assert not any("short" in note for note in LinearProbe()(splits, ACCURACY)["linear"].notes)


def test_a_choice_at_the_end_of_the_grid_is_noted(splits):
    outcome = LinearProbe(strengths=(1.0, 10.0, 100.0))(splits, ACCURACY)["linear"]
    assert outcome.chosen == {"strength": 1.0}
    assert any("strength 1 is the smallest of the grid" in note for note in outcome.notes)
    assert LinearProbe(strengths=(1e-2,))(splits, ACCURACY)["linear"].notes == ()


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.full((4, 2), np.nan), np.zeros(4, int), "training image 0 are not finite"),
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), "whole numbers from 0 to 2, not int64 from 0 to 3"),
        (np.ones((4, 2)), np.zeros(3, int), r"not \[3\]"),
        (np.ones((4, 2)), np.full((4, 3), 2), "must be 0 and 1"),
        (np.ones((4, 2)), np.zeros((4, 2), int), r"\[4, 3\] are needed"),
        (np.ones((0, 2)), np.zeros(0, int), "at least one image"),
    ],
)
def test_what_no_probe_can_be_fitted_to(features, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_probe(features, labels, classes=3, strengths=(1.0,))


def test_minimise_quadratics_of_very_different_curvature(random):
    """Six problems in one call reach the minima that a linear solver finds."""
    size = 15
    problems = 6
    turns = [np.linalg.qr(random.normal(size=(size, size)))[0] for _ in range(problems)]
    curvature = np.stack([(turn * np.logspace(0, power, size)) @ turn.T for power, turn in enumerate(turns, -2)])
    target = random.normal(size=(problems, size))
    calls = []

    def objective(points):
        away = points - target
        gradient = np.einsum("pij,pj->pi", curvature, away)
        calls.append(1)
        return np.einsum("pi,pi->p", away, gradient) / 2, gradient.astype(np.float32)

    found = lbfgs.minimise(objective, np.zeros((problems, size), np.float32), tolerance=1e-8, iterations=300)
    assert (objective(found.point)[0] < 1e-6).all()
    assert (found.excess < 1e-7).all()
    assert len(calls) < 150


def test_minimise_shortens_steps_that_went_too_far():
    """Where the curvature is a thousand times that assumed, the first step lands where values overflow."""

    def objective(points):
        away = points.astype(np.float64) - 3
        with np.errstate(over="ignore"):
            return np.sum(np.cosh(away), axis=1), np.sinh(away).astype(np.float32)

    found = lbfgs.minimise(objective, np.array([[-5.0], [3.5]], np.float32), tolerance=1e-6, iterations=100)
    np.testing.assert_allclose(found.point, [[3], [3]], atol=1e-3)


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
    """With fewer images than dimensions, and with more."""
    outcome = FewShot(shots=(shots,), draws=3, strengths=(0.1,))(splits, ACCURACY)[f"few_shot_{shots}"]
    standard = standard_of(splits.train.features)
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


def test_more_shots_than_images_are_left_out_with_a_reason(splits):
    found = FewShot(shots=(1, 300), draws=2)(splits, ACCURACY)
    assert found["few_shot_1"].predictions.shape == (2, 170)
    missing = found["few_shot_300"]
    assert missing.predictions.shape == (0, 170)
    assert np.isnan(missing.validation)
    fewest = np.bincount(splits.train.labels)
    assert missing.notes == (f"Left out: class {fewest.argmin()} has {fewest.min()} training images, fewer than 300.",)


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
    """400 images are 13 batches of 30, 10 images left out in each epoch; or one smaller batch than asked for."""
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
    assert nothing.notes == ("Left out: training diverged at every learning rate.",)


def test_sgd_probe_judges_the_last_epoch(splits):
    """A rate that oscillates at the end is judged by where it ended, not by its best epoch."""
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
        (lambda: LinearProbe(strengths=()), "finite and above 0"),
        (lambda: LinearProbe(strengths=(0.0, 1.0)), "finite and above 0"),
        (lambda: FewShot(shots=(0,)), "at least 1"),
        (lambda: FewShot(shots=(5, 5)), "different numbers of shots"),
        (lambda: SGDProbe(learning_rates=(-1.0,)), "above 0"),
        (lambda: SGDProbe(momentum=1.0), "momentum in"),
    ],
)
def test_settings_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
