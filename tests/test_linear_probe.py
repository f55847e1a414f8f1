"""The linear probe, its regressions and its optimiser, against scikit-learn, Newton's method and formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labelled_features import cluster_splits, clusters, several_labels
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from sslshift.transfer import lbfgs, logistic
from sslshift.transfer.evaluation import fit_standardiser
from sslshift.transfer.linear_probe import LinearProbe, fit_probe
from sslshift.transfer.metrics import METRICS

ACCURACY = METRICS["accuracy"]


@pytest.fixture
def splits(random):
    return cluster_splits(random)


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
    probe = fit_probe(features, labels, classes=4, l2_penalties=strengths)
    standardised = fit_standardiser(features)(features)
    for place, strength in enumerate(strengths):
        theirs, logits = scikit_learn(standardised, labels, strength, 4)
        assert objective(probe, features, labels, strength, place) == pytest.approx(theirs, abs=1e-5)
        ours = probe.scores(features, place)
        same = (ours > 0) == (logits > 0) if labels.ndim == 2 else ours.argmax(1) == logits.argmax(1)
        assert same.mean() >= 0.999
    assert (probe.excess < 2e-6).all()


def test_probe_of_two_classes(random):
    """scikit-learn's regression of two classes has one vector of weights; ours half of it for each, at twice the penalty."""
    features, labels = clusters(random, 1000, classes=2)
    probe = fit_probe(features, labels, classes=2, l2_penalties=(1e-2,))
    standardised = fit_standardiser(features)(features)
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
    probe = fit_probe(features, labels, classes=3, l2_penalties=(0.03,), tolerance=1e-8)
    weights, bias = direct(fit_standardiser(features)(features), labels, 0.03, 3)
    np.testing.assert_allclose(probe.weights[0], weights, atol=2e-3)
    np.testing.assert_allclose(probe.bias[0] - probe.bias[0].mean(), bias - bias.mean(), atol=2e-3)


@pytest.mark.parametrize(("images", "dim"), [(300, 80), (100, 150)])
@pytest.mark.parametrize("axes", [20, 100])
def test_probe_too_large_to_decompose_has_the_same_optimum(random, monkeypatch, images, dim, axes):
    features, labels = clusters(random, images, dim=dim, spread=0.3)
    features = features * np.logspace(0, 2, 12 * dim)[:dim] @ random.normal(size=(dim, dim)).astype(np.float32)
    strengths = (1e-3, 1e-1)
    expected = fit_probe(features, labels, classes=4, l2_penalties=strengths)
    monkeypatch.setattr(logistic, "_DECOMPOSED", 50)
    monkeypatch.setattr(logistic, "_SOME_IMAGES", 60)
    monkeypatch.setattr(logistic, "_SOME_AXES", min(axes, dim - 1))
    found = fit_probe(features, labels, classes=4, l2_penalties=strengths)
    for place, strength in enumerate(strengths):
        assert objective(found, features, labels, strength, place) == pytest.approx(
            objective(expected, features, labels, strength, place), abs=1e-5
        )


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("rows", [64, 65])
def test_probe_solved_in_chunks_is_the_same(random, monkeypatch, several, rows):
    """130 images are chunks of 64, 64 and 64, the last with 62 that must not count again; or two of 65."""
    features, labels = clusters(random, 130)
    labels = several_labels(random, features, 4) if several else labels
    settings = {"classes": 4, "l2_penalties": (1e-2, 1e-1, 1.0), "tolerance": 1e-9}
    whole = fit_probe(features, labels, **settings)
    monkeypatch.setattr(logistic, "_VALUES", {"cpu": 12 * rows})
    parts = fit_probe(features, labels, **settings)
    np.testing.assert_allclose(parts.weights, whole.weights, atol=3e-4)
    np.testing.assert_allclose(parts.bias - parts.bias.mean(), whole.bias - whole.bias.mean(), atol=3e-4)


def test_penalties_may_come_in_any_order_and_twice(random):
    features, labels = rare(random)
    falling = fit_probe(features, labels, classes=4, l2_penalties=(1.0, 0.1, 1e-3))
    other = fit_probe(features, labels, classes=4, l2_penalties=(0.1, 1e-3, 0.1, 1.0))
    for name in ("weights", "bias", "excess"):
        np.testing.assert_array_equal(getattr(other, name), getattr(falling, name)[[1, 2, 1, 0]])


def test_solutions_that_are_far_apart_do_not_spoil_each_other(random):
    """From penalties of almost no weights to one of nearly separated classes."""
    features, labels = clusters(random, 300, spread=2.0)
    strengths = (1e4, 1e2, 90.0, 1e-5)
    together = fit_probe(features, labels, classes=4, l2_penalties=strengths)
    for place, strength in enumerate(strengths):
        alone = fit_probe(features, labels, classes=4, l2_penalties=(strength,))
        values = objective(together, features, labels, strength, place), objective(alone, features, labels, strength, 0)
        assert values[0] == pytest.approx(values[1], abs=1e-5)


def test_logits_of_a_grid_in_parts_are_the_same(splits, monkeypatch):
    whole = LinearProbe()(splits, ACCURACY)["linear"]
    monkeypatch.setattr(logistic, "_TRANSFERRED", 1)
    parts = LinearProbe()(splits, ACCURACY)["linear"]
    assert parts.chosen == whole.chosen
    assert parts.validation == whole.validation


@pytest.mark.parametrize("rows", [50, 200])
@pytest.mark.parametrize("several", [False, True])
def test_losses_and_their_gradients(random, several, rows):
    """Values by the formula; gradients by differences of values, of which float32 leaves few digits."""
    features, labels = clusters(random, 130)
    labels = several_labels(random, features, 4) if several else labels
    images = logistic._Set(jnp.asarray(features), jnp.asarray(labels), *[None] * 5)
    point = random.normal(size=(4, 13)).astype(np.float32) * 0.3
    value, gradient = logistic._loss_and_gradient(images, point, rows)
    logits = features.astype(np.float64) @ point[:, :-1].T + point[:, -1]
    assert value == pytest.approx(of_logits(logits, labels), rel=1e-5)
    along = random.normal(size=point.shape).astype(np.float32)
    along /= np.linalg.norm(along)
    ends = [logistic._loss_and_gradient(images, point + sign * 0.05 * along, rows)[0] for sign in (1, -1)]
    assert np.vdot(gradient, along) == pytest.approx(float(ends[0] - ends[1]) / 0.1, abs=2e-3)


def test_scales_and_constant_features_do_not_matter(random):
    features, labels = clusters(random, 500)
    scaled = features * np.float32(10.0) ** np.arange(-18, 18, 3) + np.float32(10.0) ** np.arange(-19, 17, 3)
    scaled = np.hstack([scaled, np.full((500, 1), 3e7), np.zeros((500, 1))]).astype(np.float32)
    plain = fit_probe(features, labels, classes=4, l2_penalties=(1e-3,))
    other = fit_probe(scaled, labels, classes=4, l2_penalties=(1e-3,))
    np.testing.assert_allclose(other.weights[0][:-2], plain.weights[0], atol=3e-3)
    np.testing.assert_allclose(other.scores(scaled, 0), plain.scores(features, 0), atol=1e-2)
    assert other.standardiser.scale[-2:].tolist() == [1, 1]


def test_standardisers_in_float32_of_a_large_mean(random):
    features = (random.normal(size=(5000, 7)) * 0.01 + 1000).astype(np.float32)
    standard = fit_standardiser(features)
    exact = features.astype(np.float64)
    mean = np.asarray(standard.first, np.float64) + np.asarray(standard.rest)
    np.testing.assert_allclose(mean, exact.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(standard.scale, exact.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(standard(features), (exact - exact.mean(axis=0)) / exact.std(axis=0), atol=1e-4)


def test_a_fit_that_does_not_converge_says_so(splits):
    with pytest.warns(UserWarning, match="did not converge in 3 iterations"):
        fit_probe(splits.train.features, splits.train.labels, classes=4, l2_penalties=(1e-6,), iterations=3)
    outcome = LinearProbe(strengths=(1e-6, 1e-5), iterations=3)(splits, ACCURACY)["linear"]
    assert any("did not converge in 3 iterations" in note for note in outcome.notes)
    assert not any("converge" in note for note in LinearProbe()(splits, ACCURACY)["linear"].notes)


def test_a_choice_at_the_end_of_the_grid_is_noted(splits):
    outcome = LinearProbe(strengths=(1.0, 10.0, 100.0))(splits, ACCURACY)["linear"]
    assert outcome.chosen == {"strength": 1.0}
    assert any("l2 penalty 1 is the smallest of the grid" in note for note in outcome.notes)
    assert LinearProbe(strengths=(1e-2,))(splits, ACCURACY)["linear"].notes == ()


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.full((4, 2), np.nan), np.zeros(4, int), "training image 0 are not finite"),
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), "whole numbers from 0 to 2, got int64 from 0 to 3"),
        (np.ones((4, 2)), np.zeros(3, int), r"got shape \[3\]"),
        (np.ones((4, 2)), np.full((4, 3), 2), "Expected labels that are 0 and 1"),
        (np.ones((4, 2)), np.zeros((4, 2), int), r"or \[4, 3\] for these features"),
        (np.ones((0, 2)), np.zeros(0, int), "at least one image"),
    ],
)
def test_what_no_probe_can_be_fitted_to(features, labels, message):
    with pytest.raises(ValueError, match=message):
        fit_probe(features, labels, classes=3, l2_penalties=(1.0,))


def searched(function, start, tolerance, iterations):
    """The search of L-BFGS for the minimum of a function, without a preconditioner."""

    def objective(point):
        return lbfgs.Evaluation(point, *jax.value_and_grad(function)(point))

    start = jnp.asarray(start, jnp.float32)
    pairs = lbfgs.Curvature.none(start)
    return lbfgs.minimise(objective, lambda x: x, objective(start), pairs, tolerance=tolerance, iterations=iterations)


@pytest.mark.parametrize("power", range(-2, 4))
def test_minimise_a_quadratic_of_very_different_curvature(random, power):
    size = 15
    turn = np.linalg.qr(random.normal(size=(size, size)))[0]
    curvature = jnp.asarray((turn * np.logspace(0, power, size)) @ turn.T, jnp.float32)
    target = jnp.asarray(random.normal(size=size), jnp.float32)
    found = searched(lambda x: (x - target) @ curvature @ (x - target) / 2, np.zeros(size), 1e-8, 300)
    assert found.at.value < 1e-6
    assert found.excess < 1e-7
    assert found.evaluations < 200


@pytest.mark.parametrize("start", [-5.0, 3.5])
def test_minimise_shortens_steps_that_went_too_far(start):
    """The curvature is far from the assumed one, so that values overflow after the first step."""
    found = searched(lambda x: jnp.sum(jnp.cosh(x - 3)), [start], 1e-6, 100)
    np.testing.assert_allclose(found.at.point, [3], atol=1e-3)


@pytest.fixture
def uneven(random):
    """Three overlapping clusters in ten dimensions of very different scales, one of them constant."""
    centres = random.normal(size=(3, 10)) * 0.8
    labels = random.integers(0, 3, 600)
    features = (centres[labels] + random.normal(size=(600, 10))) * np.logspace(-2, 2, 10)
    features[:, 4] = 7.0
    return features.astype(np.float32), labels


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1.0])
def test_probe_on_scales_that_differ_is_the_optimum(uneven, penalty):
    features, labels = uneven
    probe = fit_probe(features, labels, classes=3, l2_penalties=(penalty, 0.1), tolerance=1e-5)
    standardised = (features - features.mean(0)) / np.where(features.std(0) > 1e-6, features.std(0), 1)
    reference = LogisticRegression(C=1 / (penalty * len(labels)), tol=1e-8, max_iter=10_000).fit(standardised, labels)

    def loss(weights, logits):
        shifted = logits - logits.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return -log_probability[np.arange(len(labels)), labels].mean() + penalty / 2 * np.square(weights).sum()

    ours = loss(probe.weights[0], probe.scores(features, 0))
    theirs = loss(reference.coef_, reference.decision_function(standardised))
    assert ours == pytest.approx(theirs, abs=1e-5)
    agree = probe.scores(features, 0).argmax(1) == reference.predict(standardised)
    assert agree.mean() >= 0.998
