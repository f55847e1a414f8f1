"""The search for nearest neighbours and the kNN evaluation, against plain loops, XLA and scikit-learn."""

import hypothesis
import hypothesis.extra.numpy
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from jax import lax
from labelled_features import cluster_splits, clusters, with_several_labels
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from sslshift.transfer import knn
from sslshift.transfer.evaluation import Split, Splits
from sslshift.transfer.knn import KNN, nearest
from sslshift.transfer.metrics import METRICS

ACCURACY = METRICS["accuracy"]
PRECISION = METRICS["average_precision"]


@pytest.fixture
def splits(random):
    return cluster_splits(random)


@pytest.fixture
def several(splits, random):
    return with_several_labels(splits, random)


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
    """Similarities in 37 dimensions are rounded, but copies of an image are equally similar at every place."""
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


@pytest.mark.parametrize(
    ("images", "neighbours", "stretch", "block"), [(70, 9, 70, 4), (70, 9, 24, 25), (9, 9, 4, 3), (65, 1, 33, 9)]
)
def test_the_search_on_an_accelerator_has_the_same_neighbours(random, images, neighbours, stretch, block):
    """Signs of four features: there are at most 16 different images, so nearly all neighbours are ties."""
    train = knn._unit(random.choice([-1, 1], (images, 4)), "training")
    test = knn._unit(random.choice([-1, 0, 1], (25, 4)), "test")
    search = (train, test, neighbours, stretch, block)
    for one, other in zip(knn._nearest_on_host(*search), knn._nearest_on_device(*search), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_an_accelerator_uses_the_compiled_search(random, monkeypatch):
    train, test = random.normal(size=(300, 8)), random.normal(size=(40, 8))
    expected = nearest(train, test, 20)
    monkeypatch.setattr(knn, "_nearest_on_host", None)
    monkeypatch.setattr(knn.jax, "default_backend", lambda: "gpu")
    similarity, index = nearest(train, test, 20)
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(similarity, expected[0], atol=1e-6)


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
        ([[1, 2]], [[1, 2, 3]], 1, "got 2 and 3 dimensions"),
        ([[1, 2]], [[1, 2]], 2, "1 to 1 neighbours"),
        ([1, 2], [[1, 2]], 1, r"training features \[images, dim\]"),
    ],
)
def test_features_that_cannot_be_compared(train, test, neighbours, message):
    with pytest.raises(ValueError, match=message):
        nearest(np.array(train, float), np.array(test, float), neighbours)


def test_votes_of_several_labels_against_a_loop(several):
    train, _, test, _ = several
    scores = KNN(neighbours=(9,), temperatures=(0.1,))(several, PRECISION)["knn"].predictions
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
            found = KNN(neighbours=(k,), temperatures=(temperature,))(splits, ACCURACY)["knn"]
            values[k, temperature] = found.validation, found.predictions
    best = max(values, key=lambda choice: values[choice][0])
    assert outcome.chosen == {"neighbours": best[0], "temperature": best[1]}
    assert outcome.validation == values[best][0]
    np.testing.assert_array_equal(outcome.predictions, values[best][1])


def shares(train, labels, test, *, neighbours, temperature, classes):
    """The weighted share of votes of each class, `[n_test, classes]`: the predictions where the metric ranks."""
    held = Split(test, np.zeros(len(test), int))
    evaluation = KNN(neighbours=(neighbours,), temperatures=(temperature,))
    return evaluation(Splits(Split(train, labels), held, held, classes), PRECISION)["knn"].predictions


def test_knn_against_a_naive_loop(random):
    features, labels = clusters(random, 600, dim=10, classes=3)
    scores = shares(features[:400], labels[:400], features[400:], neighbours=7, temperature=0.1, classes=3)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, image in zip(scores, unit[400:], strict=True):
        similarity = unit[:400] @ image
        votes = np.zeros(3)
        for j in np.argsort(-similarity, kind="stable")[:7]:
            votes[labels[j]] += np.exp(similarity[j] / 0.1)
        np.testing.assert_allclose(row, votes / votes.sum(), rtol=1e-4, atol=1e-6)


def test_knn_agrees_with_scikit_learn(random):
    features, labels = clusters(random, 600, classes=2)
    # An odd number of neighbours of two classes: no ties, which scikit-learn breaks by class and we by similarity.
    ours = shares(features[:400], labels[:400], features[400:], neighbours=5, temperature=1e6, classes=2).argmax(1)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(features[:400], labels[:400]).predict(features[400:])
    assert (ours == theirs).mean() > 0.99


def test_votes_of_equally_similar_images_are_those_of_the_earlier_ones():
    labels = np.array([1, 0, 0, 0])
    ones = np.ones((4, 3), np.float32)
    assert shares(ones, labels, ones[:1], neighbours=1, temperature=0.1, classes=2).argmax() == 1


def test_more_neighbours_than_images_are_all_images():
    features = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 0, 1])
    split = Split(features, labels)
    assert KNN(neighbours=(50, 9))(Splits(split, split, split, 2), ACCURACY)["knn"].chosen["neighbours"] == 4


def test_labels_that_do_not_fit_the_features_are_refused(splits):
    wrong = splits._replace(train=Split(splits.train.features, splits.train.labels[1:]))
    with pytest.raises(ValueError, match=r"Expected labels \[400\] or \[400, 4\]"):
        KNN()(wrong, ACCURACY)
