import itertools

import numpy as np
import pytest

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.sources import ArraySource


@pytest.fixture
def reader(gray_source, random, canvas):
    colour = ArraySource("memory:colour", random.integers(0, 256, (30, 24, 18, 3), np.uint8))
    components = (Component(gray_source.name, 200, 50, 0.7), Component(colour.name, 30, 30, 0.3))
    plan = SamplePlan(Mixture((Stage(components),)), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {source.name: source for source in (gray_source, colour)}, canvas)


def test_batch_holds_what_the_plan_says(reader):
    rows, batch = reader.plan.batch(3), reader(3).images
    assert batch.shape == (32, 12, 12, 1)
    assert batch.dtype == np.uint8
    for source, index, image in zip(*rows, batch, strict=True):
        expected = reader.sources[reader.plan.sources[source]].read(np.array([index]), reader.canvas)[0]
        assert (image == expected).all()


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_stream_is_the_same_for_any_number_of_workers(reader, workers):
    stream = list(batches(reader, 0, 10, workers=workers))
    assert len(stream) == 10
    assert all((batch.images == reader(step).images).all() for step, batch in enumerate(stream))


def test_stream_starts_at_any_step(reader):
    assert all((batch.images == reader(step).images).all() for step, batch in zip(itertools.count(7), batches(reader, 7, 10)))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_global_batch(reader, hosts):
    parts = [BatchReader(reader.plan, reader.sources, reader.canvas, host, hosts)(5).images for host in range(hosts)]
    assert (np.concatenate(parts) == reader(5).images).all()


def test_hosts_that_do_not_divide_the_batch_are_refused(reader):
    with pytest.raises(ValueError, match="cannot be divided among 3 hosts"):
        BatchReader(reader.plan, reader.sources, reader.canvas, 0, 3)
