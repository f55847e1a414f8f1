"""Pipeline: batches are the plan's for any number of hosts and workers, and unreadable images are replaced."""

import io
import itertools

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage, open_source
from sslshift.data.decode import BrokenImageError
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.sources import ArraySource


@pytest.fixture
def reader(gray_source, random, canvas):
    colour = ArraySource("memory:colour", random.integers(0, 256, (30, 24, 18, 3), np.uint8))
    components = (Component(gray_source.name, 200, 50, 0.7), Component(colour.name, 30, 30, 0.3))
    plan = SamplePlan(Mixture((Stage(components),)), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {source.name: source for source in (gray_source, colour)}, canvas)


def png(random) -> bytes:
    out = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (14, 17, 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def everywhere(tmp_path, random, canvas):
    """A mixture in two stages of every kind of source that reads files, some of which are broken."""
    (tmp_path / "folder").mkdir()
    for i in range(20):
        (tmp_path / f"folder/{i}.png").write_bytes(png(random))
    lines = ["path", *(f"folder/{i}.png" for i in range(20))]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    writer = ArrayRecordWriter(str(tmp_path / "a.array_record"), "group_size:1")
    for i in range(30):
        writer.write(b"broken" if i % 7 == 3 else png(random))
    writer.close()
    uris = (f"folder:{tmp_path / 'folder'}", f"csv:{tmp_path / 'list.csv'}", f"arrayrecord:{tmp_path / 'a.array_record'}")
    sources = {uri: open_source(uri) for uri in (*uris, "synthetic:noise?size=40")}
    (tmp_path / "folder/3.png").unlink()
    (tmp_path / "folder/5.png").write_text("changed")
    first, *rest = (Component(name, len(source), len(source) // 2, 1 / 3) for name, source in sources.items())
    stages = (Stage((Component(first.source, first.size, first.unique),), 0.25), Stage(tuple(rest), 0.75))
    plan = SamplePlan(Mixture(stages), Budget(240), 12, seed=1, subset_seed=2)
    return BatchReader(plan, sources, canvas)


def test_batch_holds_what_the_plan_says(reader):
    rows = reader.plan.batch(3)
    batch = reader(3).images
    assert batch.shape == (32, 12, 12, 1)
    assert batch.dtype == np.uint8
    for source, index, image in zip(*rows, batch, strict=True):
        expected = reader.sources[reader.plan.sources[source]].read(np.array([index]), reader.canvas)[0]
        assert (image == expected).all()


@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_any_number_of_hosts_and_workers_reads_the_same_batches(everywhere, hosts, workers):
    plan = everywhere.plan
    sources = everywhere.sources
    canvas = everywhere.canvas
    readers = [BatchReader(plan, sources, canvas, host, hosts) for host in range(hosts)]
    # Each host has workers of its own; one host's suffice to show what they read.
    streams = [batches(each, 0, 20, workers=workers if host == 0 else 0) for host, each in enumerate(readers)]
    broken = set()
    for step, parts in enumerate(zip(*streams, strict=True)):
        whole = everywhere(step)
        assert (np.concatenate([part.images for part in parts]) == whole.images).all()
        assert {one for part in parts for one in part.broken} == set(whole.broken)
        broken |= set(whole.broken)
    assert step == 19
    assert len(broken) > 3


def test_stream_starts_at_any_step(reader):
    assert all((batch.images == reader(step).images).all() for step, batch in zip(itertools.count(7), batches(reader, 7, 10)))


def test_hosts_that_do_not_divide_the_batch_are_refused(reader):
    with pytest.raises(ValueError, match="a batch size that the 3 hosts divide, got 32"):
        BatchReader(reader.plan, reader.sources, reader.canvas, 0, 3)


class Faulty(ArraySource):
    """Images of which some cannot be read."""

    faults = frozenset((2, 5, 11))

    def image(self, index, canvas=None):
        if index in self.faults:
            raise BrokenImageError(f"image {index} is broken")
        return super().image(index, canvas)

    def read(self, indices, canvas):
        return np.stack([self.image(int(index), canvas) for index in indices])


def faulty_reader(canvas, unique, size=20) -> BatchReader:
    images = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None, None, None], (size, *canvas)).copy()
    plan = SamplePlan(single("faulty", size, unique), Budget(30 * unique), unique, seed=0, subset_seed=0)
    return BatchReader(plan, {"faulty": Faulty("faulty", images)}, canvas)


def test_broken_images_are_replaced_by_one_of_their_own_subset(canvas):
    reader = faulty_reader(canvas, 12)
    subset = set(reader.plan.rows(0, 360).index.tolist())
    faults = subset & Faulty.faults
    assert faults
    stand_ins = {}
    for step in range(30):
        batch = reader(step)
        planned = reader.plan.batch(step).index.tolist()
        assert {one.index for one in batch.broken} >= faults & set(planned)
        assert all(one.reason == f"image {one.index} is broken" for one in batch.broken)
        for index, image in zip(planned, batch.images, strict=True):
            shown = int(image[0, 0, 0])
            if index in faults:
                # Always the same other one, from the same N images.
                assert stand_ins.setdefault(index, shown) == shown
                assert shown in subset - faults
            else:
                assert shown == index
    assert stand_ins.keys() == faults


def test_a_component_without_one_readable_image_ends_the_run(canvas, monkeypatch):
    reader = faulty_reader(canvas, 12)
    monkeypatch.setattr(Faulty, "faults", frozenset(range(20)))
    with pytest.raises(BrokenImageError, match=r"faulty: no image of this component can be read, e\.g\. image \d+ is broken"):
        reader(0)
