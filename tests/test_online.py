import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.views import ViewSettings, make_view, normalise
from sslshift.losses import alignment, effective_rank, uniformity
from sslshift.methods.siamese import Siamese
from sslshift.training import online as module
from sslshift.training.checkpoints import CheckpointError, Checkpoints
from sslshift.training.loop import Training, train
from sslshift.training.online import Labelled, Online, Watch, init_probe, probe_step, signals
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import make_mesh, replicate

SIGNALS = {"effective_rank", "alignment", "uniformity"}
PROBE = {"online_loss", "online_accuracy"}


@pytest.fixture
def reader(gray_source, canvas):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


@pytest.fixture
def simclr(small_method):
    return Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=4)


@pytest.fixture
def online(gray_source):
    """No number of images is a multiple of the 8 devices."""
    images = np.stack([each["image"] for each in gray_source])
    labels = gray_source.labels
    train_part = Labelled(images[:90], labels[:90])
    validation = Labelled(images[90:127], labels[90:127])
    return Online(3, images[150:], train_part, validation, classes=2, learning_rate=0.03, batch_size=20, seed=5)


def alone(online):
    return dataclasses.replace(online, train=None, validation=None)


def lines(folder):
    """Strictly JSON, which has no NaN."""

    def refuse(constant):
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def seeded_views(method, images):
    """By the method's first and last settings, which are its only two, or its only one."""
    keys = [jax.random.fold_in(jax.random.key(5), i) for i in range(2)]
    make = jax.jit(make_view, static_argnums=2)
    return [make(key, images, view) for key, view in zip(keys, (method.views[0], method.views[-1]), strict=True)]


class KilledError(Exception):
    pass


def kill(step, scalars):
    if step == 6:
        raise KilledError


# A target of networks; a centre, and views of which only two are of the images' size; one view, and no batch norm.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["byol", "dino", "mae"])
def test_training_is_the_same_to_the_bit_with_and_without(name, small_method, reader, online, tmp_path):
    training = Training(small_method(name), Optimiser(learning_rate=5e-3), checkpoint_every=4)
    without = train(training, reader, 0, tmp_path / "without")
    assert equal(train(training, reader, 0, tmp_path / "with", online=online), without)
    own = [{key: value for key, value in line.items() if key not in SIGNALS | PROBE} for line in lines(tmp_path / "with")]
    assert own == lines(tmp_path / "without")


def test_resumed_run_reports_what_an_uninterrupted_one_does(simclr, reader, online, tmp_path):
    whole = train(simclr, reader, 0, tmp_path / "whole", online=online)
    with pytest.raises(KilledError):
        train(simclr, reader, 0, tmp_path / "killed", kill, online=online)
    assert equal(train(simclr, reader, 0, tmp_path / "killed", online=online), whole)
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    # A run that is at its end reports nothing again.
    assert equal(train(simclr, reader, 0, tmp_path / "killed", online=online), whole)
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_probe_learns_from_the_batch_of_its_step(simclr, reader, online, tmp_path):
    steps = []

    class Recorded(Online):
        def rows(self, step):
            steps.append(step)
            return super().rows(step)

    recorded = Recorded(**vars(online))
    with pytest.raises(KilledError):
        train(simclr, reader, 0, tmp_path, kill, online=recorded)
    train(simclr, reader, 0, tmp_path, online=recorded)
    assert steps == [*range(1, 8), *range(5, 11)]


def test_checkpoints_serve_runs_with_and_without_a_probe(simclr, reader, online, tmp_path):
    whole = train(simclr, reader, 0, tmp_path / "whole", online=online)
    more_classes = dataclasses.replace(online, classes=3)
    for name, before, after in (("added", None, online), ("dropped", online, None), ("changed", online, more_classes)):
        with pytest.raises(KilledError):
            train(simclr, reader, 0, tmp_path / name, kill, online=before)
        assert equal(train(simclr, reader, 0, tmp_path / name, online=after), whole)
    reference, added, dropped = (lines(tmp_path / name) for name in ("whole", "added", "dropped"))
    assert [line["step"] for line in added if SIGNALS & line.keys()] == [6, 9, 10]
    assert [line["step"] for line in dropped if SIGNALS & line.keys()] == [3]
    # What has no memory is the same; the probe learnt from step 5 on, from the batches of these steps.
    assert {name: added[9][name] for name in SIGNALS} == {name: reference[9][name] for name in SIGNALS}
    assert added[9]["online_loss"] != reference[9]["online_loss"]
    assert math.isfinite(lines(tmp_path / "changed")[9]["online_loss"])


def test_lines_of_metrics(simclr, reader, online, tmp_path):
    seen = []
    state = train(simclr, reader, 0, tmp_path / "both", lambda step, scalars: seen.append({"step": step, **scalars}), online)
    assert equal(train(simclr, reader, 0, tmp_path / "alone", online=alone(online)), state)
    both = lines(tmp_path / "both")
    without_labels = lines(tmp_path / "alone")
    assert both == seen
    assert [line["step"] for line in both] == list(range(1, 11))
    usual = {"step", "loss", "gradient_norm"}
    for line, other in zip(both, without_labels, strict=True):
        reported = line["step"] in (3, 6, 9, 10)
        assert line.keys() == usual | (SIGNALS | PROBE if reported else set())
        assert other.keys() == usual | (SIGNALS if reported else set())
        assert {name: line[name] for name in other} == other
    assert (tmp_path / "both/checkpoints/10/online").exists()
    assert not (tmp_path / "alone/checkpoints/10/online").exists()


def test_probe_learns(simclr, reader, online, tmp_path):
    train(simclr, reader, 0, tmp_path / "true", online=online)
    accuracy = [line["online_accuracy"] for line in lines(tmp_path / "true") if "online_accuracy" in line]
    assert accuracy[-1] > 0.9
    # Of labels that have nothing to do with the images nothing can be learnt.
    labels = np.random.default_rng(3).integers(0, 2, 37)
    vain = dataclasses.replace(online, validation=Labelled(online.validation.images, labels))
    train(simclr, reader, 0, tmp_path / "vain", online=vain)
    assert lines(tmp_path / "vain")[-1]["online_accuracy"] < 0.75


def test_probe_of_several_labels_reports_its_loss_alone(simclr, reader, online, tmp_path):
    def several(part):
        return Labelled(part.images, np.stack([part.labels, 1 - part.labels, np.ones_like(part.labels)], 1).astype(np.uint8))

    several_labels = dataclasses.replace(
        online, train=several(online.train), validation=several(online.validation), classes=3, batch_size=40
    )
    train(simclr, reader, 0, tmp_path, online=several_labels)
    reported = [line for line in lines(tmp_path) if "online_loss" in line]
    assert all("online_accuracy" not in line for line in reported)
    assert reported[-1]["online_loss"] < 0.6 * math.log(2)


def test_signals_are_those_of_the_final_state(simclr, reader, online, tmp_path):
    state = train(simclr, reader, 0, tmp_path, online=alone(online))
    variables = jax.device_get(state.variables)
    method = simclr.method
    images = online.signal_images
    pair = seeded_views(method, images)
    plain, first, second = (np.asarray(method.features(variables, x)) for x in (normalise(images), *pair))
    values = np.linalg.svd(plain - plain.mean(axis=0), compute_uv=False)
    share = values / values.sum()
    last = lines(tmp_path)[-1]
    assert last["effective_rank"] == pytest.approx(float(np.exp(-np.sum(share * np.log(share)))), rel=1e-3)
    assert last["effective_rank"] == pytest.approx(float(effective_rank(plain - plain.mean(axis=0))), rel=1e-4)
    assert last["alignment"] == pytest.approx(float(alignment(first, second)), rel=1e-4)
    assert last["uniformity"] == pytest.approx(float(uniformity(plain)), rel=1e-4)


class Collapsed(Siamese):
    """Trains like any other, but its features are multiplied by a factor."""

    factor: float = 0.0

    def features(self, images):
        return super().features(images) * self.factor


@pytest.mark.parametrize(("factor", "kept"), [(0.0, {"effective_rank"} | PROBE), (math.nan, set())])
def test_collapsed_features_do_not_stop_the_training(factor, kept, simclr, reader, online, tmp_path):
    networks = simclr.method.networks
    method = dataclasses.replace(simclr.method, networks=Collapsed(networks.encoder, networks.projector, factor=factor))
    train(dataclasses.replace(simclr, method=method), reader, 0, tmp_path, online=online)
    last = lines(tmp_path)[-1]
    assert last.keys() - {"step", "loss", "gradient_norm"} == kept | ({"online_accuracy"} if math.isnan(factor) else set())
    if factor == 0:
        assert last["effective_rank"] == pytest.approx(1, abs=1e-3)
        assert last["online_loss"] == pytest.approx(math.log(2), abs=0.05)


class Pixels:
    """In place of a method: features are pixels times what the variables say. Counts how often it is traced."""

    views = (ViewSettings(),)

    def __init__(self):
        self.traced = 0

    def features(self, variables, images):
        self.traced += 1
        return images.reshape(len(images), -1)[:, ::24] * variables["scale"] + variables["offset"]


def variables(scale=1.0, offset=0.0):
    return replicate(make_mesh(), {"scale": jnp.float32(scale), "offset": jnp.float32(offset)})


def watched(method, online, variables, steps):
    watch = Watch(online, method, make_mesh())
    probe = watch.start(variables)
    for step in range(1, steps + 1):
        probe = watch.learn(probe, variables, step)
    return probe, {name: float(value) for name, value in watch.report(probe, variables).items()}


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


def test_what_does_not_fit_is_refused(online, simclr, reader, tmp_path):
    images, labels = online.train
    wrong = [
        ({"every": 0}, "every and batch_size of at least 1"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"learning_rate": float("nan")}, "learning rate above 0"),
        ({"seed": -1}, "seed of at least 0"),
        ({"signal_images": images[:1]}, "signal_images must hold at least 2"),
        ({"signal_images": images.astype(np.float32)}, "signal_images .* not float32"),
        ({"validation": None}, "both training and validation"),
        ({"classes": 1}, "at least 2 classes"),
        ({"train": Labelled(images, labels[:-1])}, "labels of train .* for 90 images"),
        ({"train": Labelled(images, labels.astype(np.float32))}, "whole numbers"),
        ({"train": Labelled(images, labels + 1)}, r"labels of train must lie in \[0, 1\], not in \[1, 2\]"),
        ({"train": Labelled(images, np.full((90, 2), 2))}, r"must lie in \[0, 1\]"),
        ({"train": Labelled(images, np.zeros((90, 2), np.uint8))}, "of one kind"),
        ({"train": Labelled(images[:0], labels[:0])}, "train must hold at least 1"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(online, **changes)
    for name in ("signal_images", "train", "validation"):
        value = getattr(online, name)
        cut = value[:, :11] if name == "signal_images" else Labelled(value.images[:, :11], value.labels)
        with pytest.raises(ValueError, match=rf"shape \(12, 12, 1\), but those of {name} are \(11, 12, 1\)"):
            train(simclr, reader, 0, tmp_path, online=dataclasses.replace(online, **{name: cut}))
