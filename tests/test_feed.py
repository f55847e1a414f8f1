"""Images in device memory, and several steps in one program, give the same bits as reading on the host, step by step."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import equal
from tiny_studies import tiny

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import ArraySource
from sslshift.methods import METHODS
from sslshift.study import opened
from sslshift.study.opened import open_study
from sslshift.training import feed
from sslshift.training.feed import chunks, images_of, memory_for_images, place
from sslshift.training.guards import NonFiniteError
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import make_mesh


class Faulty(ArraySource):
    """Images of which every fifth cannot be read."""

    def image(self, index, canvas=None):
        if index % 5 == 3:
            raise BrokenImageError(f"image {index} is broken")
        return super().image(index, canvas)

    def read(self, indices, canvas):
        return np.stack([self.image(int(index), canvas) for index in indices])


@pytest.fixture
def reader(gray_source, random, canvas):
    """Batches of two sources in two stages; images of one have another shape, and some cannot be read."""
    colour = Faulty("memory:colour", random.integers(0, 256, (30, 24, 18, 3), np.uint8))
    stages = (
        Stage((Component(gray_source.name, 200, 50),), 0.5),
        Stage((Component(gray_source.name, 200, 60, 0.6), Component(colour.name, 30, 12, 0.4)), 0.5),
    )
    plan = SamplePlan(Mixture(stages), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {source.name: source for source in (gray_source, colour)}, canvas)


def placed_for(reader, *plans):
    return place(images_of(plans or [reader.plan]), reader.sources, reader.canvas, make_mesh())


def test_images_of_several_runs_are_their_union(reader):
    other = dataclasses.replace(reader.plan, subset_seed=5)
    for plans in ([reader.plan], [reader.plan, other]):
        expected: dict[str, set] = {}
        for plan in plans:
            rows = plan.rows(0, 320)
            for source, index in zip(rows.source, rows.index, strict=True):
                expected.setdefault(plan.sources[source], set()).add(int(index))
        assert {name: indices.tolist() for name, indices in images_of(plans).items()} == {
            name: sorted(indices) for name, indices in expected.items()
        }


@pytest.mark.parametrize("block", [7, 256])
def test_placed_images_give_the_batches_of_the_host_to_the_bit(block, reader, monkeypatch):
    monkeypatch.setattr(feed, "_BLOCK", block)
    # Images of other runs lie between those of this run.
    placed = placed_for(reader, reader.plan, dataclasses.replace(reader.plan, subset_seed=5))
    found = list(chunks(reader, placed, make_mesh(), 0, 10, most=None, every=4, workers=0))
    assert [(chunk.stop, chunk.count) for chunk in found] == [(step, 1) for step in range(1, 11)]
    broken = set()
    for step, chunk in enumerate(found):
        expected = reader(step)
        (images,) = chunk.arrays
        assert images.dtype == jnp.uint8
        np.testing.assert_array_equal(images, expected.images)
        assert chunk.broken == expected.broken
        broken |= set(chunk.broken)
    assert len(broken) > 1


def test_chunks_end_at_checkpoints_wherever_they_start(reader):
    placed = placed_for(reader)
    for start in (0, 4, 8):
        found = list(chunks(reader, placed, make_mesh(), start, 10, most=3, every=4, workers=0))
        assert [(chunk.stop, chunk.count) for chunk in found] == [
            each for each in [(3, 3), (4, 1), (7, 3), (8, 1), (10, 2)] if each[0] > start
        ]
        for chunk in found:
            images, count = chunk.arrays
            assert int(count) == chunk.count
            for i in range(chunk.count):
                np.testing.assert_array_equal(images[i], reader(chunk.stop - chunk.count + i).images)


@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_rows_of_many_steps_are_looked_up_at_once(start, gray_source, canvas, monkeypatch):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(320), 32, seed=1, subset_seed=2)
    reader = BatchReader(plan, {gray_source.name: gray_source}, canvas)
    monkeypatch.setattr(feed, "_STEPS", 4)
    found = list(chunks(reader, placed_for(reader), make_mesh(), start, 10, most=None, every=20, workers=0))
    assert [chunk.stop for chunk in found] == list(range(start + 1, 11))
    for chunk in found:
        np.testing.assert_array_equal(chunk.arrays[0], reader(chunk.stop - 1).images)


def test_a_component_that_cannot_be_read_ends_the_run(canvas):
    class Unreadable(Faulty):
        def image(self, index, canvas=None):
            raise BrokenImageError(f"image {index} is broken")

    source = Unreadable("bad", np.zeros((20, *canvas), np.uint8))
    reader = BatchReader(SamplePlan(single("bad", 20, 8), Budget(64), 16, 0, 0), {"bad": source}, canvas)
    with pytest.raises(BrokenImageError, match=r"bad: no image of this component can be read, e\.g\. image \d+ is broken"):
        next(chunks(reader, placed_for(reader), make_mesh(), 0, 4, most=None, every=4, workers=0))


class KilledError(Exception):
    pass


def kill(step, scalars):
    if step == 6:
        raise KilledError


# Every fifth image of a source is broken.
def settings(method, **changes):
    return Training(method, Optimiser("lars", learning_rate=0.3), checkpoint_every=4, max_broken=0.5, **changes)


@pytest.mark.parametrize(
    "name", ["simclr", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "simclr")]
)
def test_several_steps_in_a_program_give_the_bits_of_single_steps(name, small_method, reader, tmp_path):
    method = small_method(name)
    placed = placed_for(reader)
    single = train(settings(method), reader, 0, tmp_path / "single")
    whole = train(settings(method, steps_per_dispatch=4), reader, 0, tmp_path / "whole")
    # A run on placed images, killed and continued with other numbers of steps to a program.
    with pytest.raises(KilledError):
        train(settings(method, steps_per_dispatch=3), reader, 0, tmp_path / "placed", kill, placed=placed)
    assert equal(train(settings(method, steps_per_dispatch=2), reader, 0, tmp_path / "placed", placed=placed), whole)
    for file in ("metrics.jsonl", "broken.csv"):
        assert (tmp_path / "placed" / file).read_text() == (tmp_path / "whole" / file).read_text()
    # XLA may round differently inside of the loop of swav.
    if name != "swav":
        assert equal(single, whole)
        assert (tmp_path / "single/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    # The program of a single step is the same for images of both kinds.
    assert equal(train(settings(method), reader, 0, tmp_path / "one", placed=placed), single)


def test_a_program_of_several_steps_names_the_step_that_is_not_finite(small_method, reader, tmp_path):
    method = small_method("simclr")

    def explode(variables, target, views, context):
        loss, output = method.loss(variables, target, views, context)
        return jnp.where(context.progress > 0.55, jnp.nan, loss), output

    training = dataclasses.replace(settings(method, steps_per_dispatch=4), method=dataclasses.replace(method, loss=explode))
    with pytest.raises(NonFiniteError, match=r"Step 7 of .* not finite.*last good checkpoint: step 4 in"):
        train(training, reader, 0, tmp_path, placed=placed_for(reader))
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["4"]


class Device:
    def __init__(self, stats):
        self.memory_stats = lambda: stats


def test_images_may_take_a_share_of_the_least_free_memory(monkeypatch):
    assert memory_for_images(0.25) == 0
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    devices = [Device({"bytes_limit": 1000, "bytes_in_use": used}) for used in (200, 600)]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    assert memory_for_images(0.25) == 100
    assert memory_for_images(0.0) == 0
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    assert memory_for_images(0.25) == 1 << 30


def test_rows_of_many_channels_keep_their_layout(random):
    canvas = Canvas(5, 4, 3)
    source = ArraySource("memory:colour", random.integers(0, 256, (9, *canvas), np.uint8))
    images = place({source.name: np.arange(9)}, {source.name: source}, canvas, make_mesh())
    rows = np.array([[3, 1, 8, 8, 0, 2, 4, 5]], np.int32)
    np.testing.assert_array_equal(images.batches(rows), source.read(rows[0], canvas)[None])


def test_a_study_places_the_images_of_all_its_runs_once(monkeypatch):
    study = open_study(tiny("--steps_per_dispatch=8", "--mixture=m = bundled:mnist@30*0.5 + synthetic:noise?size=300@30*0.5"))
    monkeypatch.setattr(opened, "memory_for_images", lambda share: 1 << 20)
    assert study.memory_note == ""
    assert len({run.draw for run in study.runs}) == 2
    for run in study.runs:
        reader = study.reader(study.candidate(run).mixture, run.seed, run.draw)
        (chunk,) = chunks(reader, study.placed, make_mesh(), 19, 20, most=None, every=20, workers=0)
        np.testing.assert_array_equal(chunk.arrays[0], reader(19).images)
        assert study.training(run).steps_per_dispatch == 8
    # No image that no run sees: two draws of 400 images of one source, and all 300 of the other.
    assert 700 < len(study.placed.pixels) <= 1100


def test_a_study_whose_images_need_more_memory_reads_them_on_the_host(monkeypatch):
    study = open_study(tiny("--steps_per_dispatch=8"))
    monkeypatch.setattr(opened, "memory_for_images", lambda share: 1 << 18)
    assert re.fullmatch(
        r"The training images need 0\.000\d+ GiB, and a device has 0\.000244 GiB for them \(--device_memory=0\.25 of its free "
        r"memory\): images are read on the host\.",
        study.memory_note,
    )
    assert study.placed is None


def test_a_share_of_memory_lies_between_0_and_1():
    with pytest.raises(ValueError, match=r"--device_memory must be a share in \[0, 1\], got 1\.5"):
        tiny("--device_memory=1.5")


def test_a_program_has_at_least_one_step(small_method):
    with pytest.raises(ValueError, match="Expected checkpoint_every and steps_per_dispatch of at least 1, got 4 and 0"):
        settings(small_method("simclr"), steps_per_dispatch=0)
