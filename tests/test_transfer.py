import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import Canvas
from sslshift.transfer.features import pixel_encoder, source_features
from sslshift.transfer.knn import knn_scores
from sslshift.transfer.linear_probe import fit_probe
from sslshift.transfer.protocol import evaluate, make_task


@pytest.fixture
def clusters(random):
    """Three overlapping clusters in ten dimensions of very different scales, one of them constant."""
    centres = random.normal(size=(3, 10)) * 0.8
    labels = random.integers(0, 3, 600)
    features = (centres[labels] + random.normal(size=(600, 10))) * np.logspace(-2, 2, 10)
    features[:, 4] = 7.0
    return features.astype(np.float32), labels


@pytest.mark.parametrize("strength", [1e-3, 1e-2, 1.0])
def test_probe_is_the_optimum_that_scikit_learn_finds(clusters, strength):
    features, labels = clusters
    probe = fit_probe(features, labels, classes=3, strengths=(strength, 0.1), tolerance=1e-5)
    standardised = (features - features.mean(0)) / np.where(features.std(0) > 1e-6, features.std(0), 1)
    reference = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-8, max_iter=10_000).fit(standardised, labels)

    def loss(weights, logits):
        shifted = logits - logits.max(1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        return -log_probability[np.arange(len(labels)), labels].mean() + strength / 2 * np.square(weights).sum()

    ours = loss(probe.weights[0], probe.scores(features, 0))
    theirs = loss(reference.coef_, reference.decision_function(standardised))
    assert ours == pytest.approx(theirs, abs=1e-5)
    agree = probe.scores(features, 0).argmax(1) == reference.predict(standardised)
    assert agree.mean() >= 0.998


def test_knn_against_a_naive_loop(clusters):
    features, labels = clusters
    scores = knn_scores(features[:400], labels[:400], features[400:], neighbours=7, temperature=0.1, classes=3, block=64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, image in zip(scores, unit[400:], strict=True):
        similarity = unit[:400] @ image
        votes = np.zeros(3)
        for j in np.argsort(-similarity, kind="stable")[:7]:
            votes[labels[j]] += np.exp((similarity[j] - similarity.max()) / 0.1)
        np.testing.assert_allclose(row, votes, rtol=1e-4)


def test_knn_agrees_with_scikit_learn(clusters):
    features, labels = clusters
    # An odd number of neighbours of two classes: no ties, which scikit-learn breaks by class and we by similarity.
    labels = np.minimum(labels, 1)
    ours = knn_scores(features[:400], labels[:400], features[400:], neighbours=5, temperature=1e6, classes=2).argmax(1)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(features[:400], labels[:400]).predict(features[400:])
    assert (ours == theirs).mean() > 0.99


def test_knn_ties_go_to_the_earlier_image():
    train, labels = np.ones((4, 3)), np.array([1, 0, 0, 0])
    assert knn_scores(train, labels, np.ones((1, 3)), neighbours=1, temperature=0.1, classes=2).argmax() == 1


def test_knn_with_more_neighbours_than_images():
    with pytest.raises(ValueError, match="1 to 4 neighbours"):
        knn_scores(np.ones((4, 3)), np.zeros(4, int), np.ones((1, 3)), neighbours=5, temperature=0.1, classes=2)


def test_splits_share_no_image_and_ignore_seeds(gray_source, canvas):
    task = make_task(gray_source, None, canvas, labelled=100)
    splits = [set(indices.tolist()) for _, indices in (task.train, task.validation, task.test)]
    assert [len(split) for split in splits] == [80, 20, 40]
    assert len(set.union(*splits)) == 140
    again = make_task(gray_source, None, canvas, labelled=100)
    assert (again.train[1] == task.train[1]).all()


def test_evaluate_learns_what_can_be_learned(gray_source, canvas):
    scores = evaluate(pixel_encoder, make_task(gray_source, None, canvas, labelled=0))
    assert scores["linear"] > 0.95
    shuffled = ArraySource("memory:shuffled", gray_source._images, np.random.default_rng(0).permutation(gray_source.labels))
    scores = evaluate(pixel_encoder, make_task(shuffled, None, canvas, labelled=0))
    assert scores["linear"] < 0.75
    assert scores["knn"] < 0.75


def test_hyperparameters_are_not_chosen_on_the_test_split(gray_source, canvas, monkeypatch):
    """With the test labels turned round, the choice stays and accuracy becomes its complement."""
    test = ArraySource("memory:test", gray_source._images[:50], gray_source.labels[:50])
    turned = ArraySource("memory:turned", gray_source._images[:50], 1 - gray_source.labels[:50])
    a, b = (evaluate(pixel_encoder, make_task(gray_source, each, canvas, labelled=0)) for each in (test, turned))
    for name in ("knn_neighbours", "knn_temperature", "linear_strength"):
        assert a[name] == b[name]
    assert a["linear"] == pytest.approx(1 - b["linear"])


def test_features_that_are_not_finite_are_refused(gray_source, canvas):
    def broken(images):
        features = pixel_encoder(images).copy()
        features[3, 0] = np.nan
        return features

    with pytest.raises(ValueError, match="memory:gray: image 13 has features that are not finite"):
        source_features(broken, gray_source, np.arange(10, 20), canvas)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "has no labels"), (np.zeros(50, int), "at least two"), (np.arange(50), "that no training image has")],
)
def test_tasks_that_are_none_are_refused(labels, message, random):
    source = ArraySource("memory:x", random.integers(0, 256, (50, 4, 4, 1), np.uint8), labels)
    with pytest.raises(ValueError, match=message):
        make_task(source, None, Canvas(4, 4, 1), labelled=0)


def test_classes_are_matched_by_name(tmp_path):
    """A test folder that lacks a class counts its labels otherwise; what is compared are the names."""
    for part, kinds in (("train", "abc"), ("test", "bc")):
        for number, kind in enumerate(kinds):
            for i in range(20):
                path = tmp_path / part / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), 60 * (ord(kind) - ord("a")) + i + number % 2).save(path)
    train, test = (open_source(f"folder:{tmp_path / part}?labels=folder") for part in ("train", "test"))
    task = make_task(train, test, Canvas(8, 8, 1), labelled=0)
    assert set(task.test[0].labels.tolist()) == {1, 2}
    assert evaluate(pixel_encoder, task)["linear"] > 0.9
    with pytest.raises(ValueError, match="has no class a"):
        make_task(test, train, Canvas(8, 8, 1), labelled=0)


def test_test_split_of_the_same_images_is_refused(gray_source, canvas):
    with pytest.raises(ValueError, match="a test split needs others"):
        make_task(gray_source, gray_source, canvas, labelled=0)


def test_few_labelled_images_are_enough_to_run(gray_source, canvas):
    assert 0 <= evaluate(pixel_encoder, make_task(gray_source, None, canvas, labelled=8))["knn"] <= 1


def test_pixel_floor_of_large_images_is_small(random):
    assert pixel_encoder(random.integers(0, 256, (2, 200, 100, 3), np.uint8)).shape == (2, 32 * 32 * 3)
    images = random.integers(0, 256, (2, 28, 28, 1), np.uint8)
    np.testing.assert_allclose(pixel_encoder(images), images.reshape(2, -1) / np.float32(255), atol=1e-6)
