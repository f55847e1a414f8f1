"""The online probe alone: against naive loops, its order of images, and its state in checkpoints."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from method_steps import equal
from online_reports import PROBE, SIGNALS, seeded_views, variables, watched

from sslshift.data.views import OWN, ViewSettings, normalise
from sslshift.training import online as module
from sslshift.training.checkpoints import CheckpointError, Checkpoints
from sslshift.training.online import Labelled, Online, Watch, init_probe, probe_step, signals
from sslshift.training.step import make_mesh, replicate


class Pixels:
    """In place of a method: features are pixels times what the variables say. Counts how often it is traced."""

    views = (ViewSettings(),)
    normalisation = OWN
    normalised = staticmethod(normalise)

    def __init__(self):
        self.traced = 0

    def features(self, variables, images):
        self.traced += 1
        return images.reshape(len(images), -1)[:, ::24] * variables["scale"] + variables["offset"]


def test_probe_against_a_naive_loop(online):
    """Running statistics, softmax regression and Adam, written out."""
    online = dataclasses.replace(online, learning_rate=0.05)
    _, found = watched(Pixels(), online, variables(), steps=15)

    def features(images):
        return (images.reshape(len(images), -1)[:, ::24] / 255 - 0.5) / 0.25

    dim = features(online.train.images).shape[1]
    mean = np.zeros(dim)
    variance = np.zeros(dim)
    weights = np.zeros((dim + 1, 2))
    first = np.zeros_like(weights)
    second = np.zeros_like(weights)

    def probabilities(x):
        logits = np.concatenate([(x - mean) / np.sqrt(variance), np.ones((len(x), 1))], 1) @ weights
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    for step in range(1, 16):
        rows = online.rows(step)
        x = features(online.train.images[rows])
        y = np.eye(2)[online.train.labels[rows]]
        share = max(1 / step, 0.1)
        square = (1 - share) * (variance + mean**2) + share * (x**2).mean(axis=0)
        mean = (1 - share) * mean + share * x.mean(axis=0)
        variance = square - mean**2
        inputs = np.concatenate([(x - mean) / np.sqrt(variance), np.ones((len(x), 1))], 1)
        gradient = inputs.T @ (probabilities(x) - y) / len(x)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        weights = weights - 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    given = probabilities(features(online.validation.images))[np.arange(37), online.validation.labels]
    assert found["online_loss"] == pytest.approx(-np.log(given).mean(), rel=1e-3)
    assert found["online_accuracy"] == pytest.approx((given > 0.5).mean())


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, 0.0), (1e4, 0.0), (1.0, 100.0)])
def test_probe_does_not_care_for_the_scale_of_features(scale, offset, online):
    _, plain = watched(Pixels(), online, variables(), steps=6)
    _, scaled = watched(Pixels(), online, variables(scale, offset), steps=6)
    for name in PROBE:
        assert scaled[name] == pytest.approx(plain[name], abs=0.01)


@pytest.mark.parametrize("constant", [0.0, 1000.1])
def test_constant_features_are_not_blown_up(constant, online):
    probe, found = watched(Pixels(), online, variables(0.0, constant), steps=20)
    logits = probe.logits(probe.params, jnp.full((1, len(probe.mean)), constant))
    assert np.abs(np.asarray(logits)).max() < 1
    assert found["online_loss"] == pytest.approx(math.log(2), abs=0.05)


def test_no_gradient_reaches_the_encoder(online):
    labels = jnp.asarray(online.train.labels[:20], jnp.int32)

    def learnt(variables):
        probe = init_probe(6, 2, 0.1)
        for _ in range(2):
            probe = probe_step(probe, variables, online.train.images[:20], labels, method=Pixels(), learning_rate=0.1)
        return sum(jnp.square(leaf).sum() for leaf in (*jax.tree.leaves(probe.params), probe.mean, probe.variance))

    gradient = jax.grad(learnt)({"scale": jnp.float32(1), "offset": jnp.float32(0)})
    assert gradient == {"scale": 0, "offset": 0}
    assert learnt({"scale": jnp.float32(1), "offset": jnp.float32(0)}) > 0


def test_filled_up_batches_and_chunks_change_nothing(online, monkeypatch):
    whole_probe, whole = watched(Pixels(), online, variables(), steps=3)
    monkeypatch.setattr(module, "_CHUNK", 13)  # 16 images at a time: 50 and 37 become 64 and 48
    chunked_probe, chunked = watched(Pixels(), online, variables(), steps=3)
    assert chunked == pytest.approx(whole, rel=1e-5)
    assert equal(whole_probe, chunked_probe)
    # By hand on one device, where nothing is filled up.
    method = Pixels()
    host = jax.device_get(variables())
    labels = jnp.asarray(online.train.labels, jnp.int32)
    probe = init_probe(6, 2, 0.03)
    for step in range(1, 4):
        rows = online.rows(step)
        probe = probe_step(probe, host, online.train.images[rows], labels[rows], method=method, learning_rate=0.03)
    for ours, other in zip(jax.tree.leaves(whole_probe), jax.tree.leaves(probe), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-6)
    views = [method.features(host, view) for view in seeded_views(method, online.signal_images)]
    by_hand = signals(method.features(host, normalise(online.signal_images)), *views)
    assert {name: whole[name] for name in SIGNALS} == pytest.approx(jax.tree.map(float, by_hand), rel=1e-4)


def test_nothing_is_compiled_twice(online):
    method = Pixels()
    watch = Watch(online, method, make_mesh())
    given = variables()
    probe = watch.start(given)

    def follow(watch, probe, steps):
        for step in steps:
            probe = watch.learn(probe, given, step)
            # The training loop reads each report one step later; dozens of programs under way at once over eight devices that
            # share two cores may wait for each other for ever.
            jax.block_until_ready(watch.report(probe, given))
        return probe

    probe = follow(watch, probe, range(1, 3))
    once = method.traced
    follow(watch, probe, range(3, 9))
    again = Watch(dataclasses.replace(online, seed=6), method, make_mesh())
    follow(again, again.start(given), [1])
    # Its start asks for the width of the features, which traces them and compiles nothing.
    assert method.traced == once + 1


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 9))
def test_every_labelled_image_comes_once_before_any_comes_again(count, batch, seed):
    images = np.zeros((count, 2, 2, 1), np.uint8)
    part = Labelled(images, np.arange(count) % 2)
    online = Online(1, np.zeros((2, 2, 2, 1), np.uint8), part, part, classes=2, batch_size=batch, seed=seed)
    epochs = 3
    rows = np.concatenate([online.rows(step) for step in range(1, epochs * count // batch + 2)])
    for epoch in range(epochs):
        assert sorted(rows[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_order_of_the_labelled_images_differs_by_seed_and_epoch(online):
    one = dataclasses.replace(online, batch_size=90)
    other = dataclasses.replace(online, batch_size=90, seed=6)
    assert (one.rows(1) != one.rows(2)).any()
    assert (one.rows(1) != other.rows(1)).any()


def test_probe_in_checkpoints(tmp_path):
    state = replicate(make_mesh(), {"weights": jnp.ones(3)})
    probe = replicate(make_mesh(), init_probe(4, 2, 0.1).replace(mean=jnp.arange(4.0)))
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, 1)
    fresh = replicate(make_mesh(), init_probe(4, 2, 0.1))
    assert checkpoints.restore_online(fresh) is fresh
    checkpoints.save(state, 2, probe)
    assert equal(checkpoints.restore(state), state)
    assert equal(checkpoints.restore_online(fresh), probe)
    wider = replicate(make_mesh(), init_probe(4, 3, 0.1))
    assert checkpoints.restore_online(wider) is wider
    (tmp_path / "2/online/_METADATA").unlink()
    with pytest.raises(CheckpointError, match=r"step 2 .* cannot be read"):
        checkpoints.restore_online(fresh)
    checkpoints.close()
