"""Reports of an encoder while it is pretrained: training is not affected, and every line has its metrics."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from method_steps import equal
from online_reports import PROBE, SIGNALS, seeded_views

from sslshift.data.views import normalise
from sslshift.losses import alignment, effective_rank, uniformity
from sslshift.methods.siamese import Siamese
from sslshift.training.loop import Training, train
from sslshift.training.online import Labelled, Online
from sslshift.training.optimiser import Optimiser


@pytest.fixture
def simclr(small_method):
    return Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=4)


def alone(online):
    return dataclasses.replace(online, train=None, validation=None)


def lines(folder):
    """Strictly JSON, which has no NaN."""

    def refuse(constant):
        raise ValueError(constant)

    return [json.loads(line, parse_constant=refuse) for line in (folder / "metrics.jsonl").read_text().splitlines()]


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


def test_what_does_not_fit_is_refused(online, simclr, reader, tmp_path):
    images, labels = online.train
    wrong = [
        ({"every": 0}, "every and batch_size of at least 1"),
        ({"batch_size": 0}, "batch_size of at least 1"),
        ({"learning_rate": float("nan")}, "learning rate above 0"),
        ({"seed": -1}, "seed of at least 0"),
        ({"signal_images": images[:1]}, "signal_images must hold at least 2"),
        ({"signal_images": images.astype(np.float32)}, "signal_images .* not float32"),
        ({"validation": None}, "for training and for validation"),
        ({"classes": 1}, "at least 2 classes"),
        ({"train": Labelled(images, labels[:-1])}, "labels of train .* for 90 images"),
        ({"train": Labelled(images, labels.astype(np.float32))}, "whole numbers"),
        ({"train": Labelled(images, labels + 1)}, r"labels of train must lie in \[0, 1\], not in \[1, 2\]"),
        ({"train": Labelled(images, np.full((90, 2), 2))}, r"must lie in \[0, 1\]"),
        ({"train": Labelled(images, np.zeros((90, 2), np.uint8))}, "the same kind of shape"),
        ({"train": Labelled(images[:0], labels[:0])}, "train must hold at least 1"),
    ]
    for changes, message in wrong:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(online, **changes)
    for name in ("signal_images", "train", "validation"):
        value = getattr(online, name)
        cut = value[:, :11] if name == "signal_images" else Labelled(value.images[:, :11], value.labels)
        with pytest.raises(ValueError, match=rf"shape \(12, 12, 1\), got \(11, 12, 1\) for {name}"):
            train(simclr, reader, 0, tmp_path, online=dataclasses.replace(online, **{name: cut}))
