"""Evaluations on frozen features under strict promotion of dtypes and ranks, which users may turn on for their own code."""

import jax
import numpy as np
import pytest
from labelled_features import cluster_splits, with_several_labels

from sslshift.transfer import logistic, protocol
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.knn import KNN, _nearest_on_device, nearest
from sslshift.transfer.linear_probe import LinearProbe, fit_probe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.sgd_probe import SGDProbe

EVALUATIONS = {
    "linear": LinearProbe((1e-2, 1e-1), iterations=20),
    "few_shot": FewShot((2,), draws=2, strengths=(0.1,)),
    "sgd": SGDProbe(epochs=1, batch_size=20),
    "knn": KNN((5,)),
}


@pytest.fixture
def strict():
    # Functions that were traced before would not be checked.
    jax.clear_caches()
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
    jax.clear_caches()


@pytest.mark.parametrize("metric", ["accuracy", "average_precision"])
@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluations_promote_nothing_implicitly(name, metric, random, strict):
    splits = cluster_splits(random)
    splits = splits if metric == "accuracy" else with_several_labels(splits, random)
    outcome = EVALUATIONS[name](splits, METRICS[metric])
    placed = [each._replace(features=jax.device_put(each.features)) for each in splits[:3]]
    on_device = EVALUATIONS[name](splits._replace(train=placed[0], validation=placed[1], test=placed[2]), METRICS[metric])
    assert outcome.keys() == on_device.keys()
    for one, other in zip(outcome.values(), on_device.values(), strict=True):
        assert one.chosen == other.chosen
        np.testing.assert_array_equal(one.predictions, other.predictions)


@pytest.mark.parametrize(("images", "dim"), [(30, 60), (60, 50)])
def test_probes_of_many_dimensions_promote_nothing_implicitly(images, dim, random, strict, monkeypatch):
    monkeypatch.setattr(logistic, "_DECOMPOSED", 40)
    features = random.normal(size=(images, dim)).astype(np.float32)
    probe = fit_probe(features, np.arange(images) % 2, classes=2, l2_penalties=(1e-1,), iterations=30)
    assert np.isfinite(probe.scores(features, 0)).all()


def test_the_search_on_an_accelerator_and_the_rank_promote_nothing_implicitly(random, strict):
    train, _, test, _ = cluster_splits(random)
    _, index = _nearest_on_device(train.features, test.features, 5, 400, 50)
    np.testing.assert_array_equal(index, nearest(train.features, test.features, 5)[1])
    assert 1 < protocol._centred_rank(test.features) <= 12
