"""Sketches of any number of images: their files, and the memory that they and the kernels take."""

import tracemalloc

import jax
import numpy as np
import pytest

from sslshift.shift import kernel_distance, rbf_mmd
from sslshift.shift.distances.frechet import Moments
from sslshift.shift.distances.kernel import KernelBlocks
from sslshift.shift.distances.sliced_wasserstein import Projections
from sslshift.shift.distances.visual_dna import Histograms, Ranges

KEY = jax.random.key(0)


def sketches(random):
    x = random.normal(size=(40, 3))
    ranges = Ranges.of(x, encoder="a1b2")
    projected = Projections.ranges(x, key=KEY, directions=5, encoder="a1b2")
    return [
        Moments.of(x, encoder="a1b2"),
        ranges,
        Histograms.of(x, ranges, bins=7),
        Projections.of(x, projected, key=KEY, bins=6, encoder="a1b2"),
        KernelBlocks.of(x, x + 1, key=KEY, size=10, encoder="a1b2"),
    ]


def same(a, b):
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return type(a) is type(b) and np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype


def test_sketches_come_back_from_files_as_they_were(tmp_path, random):
    for sketch in sketches(random):
        path = tmp_path / "host 7"
        sketch.save(path)
        assert same(type(sketch).load(path), sketch)
        assert [file.name for file in tmp_path.iterdir()] == ["host 7"]
        with np.load(path, allow_pickle=False) as held:
            assert all(held[name].dtype != object for name in held.files)


def test_files_of_something_else_are_refused(tmp_path, random):
    moments, ranges, histograms, *_ = sketches(random)
    path = tmp_path / "sketch.npz"
    histograms.save(path)
    with pytest.raises(ValueError, match="holds Histograms of version 1, not Moments of version 1"):
        Moments.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as Histograms"):
        Histograms.load(path)
    np.savez(path, counts=histograms.counts)
    with pytest.raises(ValueError, match="cannot be read as Histograms"):
        Histograms.load(path)
    np.savez(
        path,
        sslshift=np.array("Ranges of version 1"),
        minimum=ranges.minimum,
        maximum=ranges.maximum.astype(object),
        encoder="",
    )
    with pytest.raises(ValueError, match=r"cannot be read as Ranges of version 1 .*allow_pickle=False"):
        Ranges.load(path)
    with pytest.raises(ValueError, match="cannot be read as Moments"):
        Moments.load(tmp_path / "missing.npz")
    assert moments.encoder == ranges.encoder == "a1b2"


def test_loaded_ranges_of_another_encoder_are_refused(tmp_path, random):
    x = random.normal(size=(40, 3))
    Ranges.of(x, encoder="a1b2").save(tmp_path / "ranges.npz")
    ranges = Ranges.load(tmp_path / "ranges.npz")
    assert Histograms.of(x, ranges, encoder="a1b2").count == 40
    with pytest.raises(ValueError, match="different encoders"):
        Histograms.of(x, ranges, encoder="ffff")


def peak(work):
    """Returns the peak of memory in bytes, beyond what was in use before."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def test_memory_of_sketches_does_not_grow_with_the_number_of_images(random):
    x = random.normal(size=(480_000, 16)).astype(np.float32)
    ranges = Ranges(np.full(16, -4.0), np.full(16, 4.0))
    projected = Projections.ranges(x[:1000], key=KEY, directions=8)
    for name, make in {
        "moments": Moments.of,
        "ranges": Ranges.of,
        "histograms": lambda part: Histograms.of(part, ranges),
        "projections": lambda part: Projections.of(part, projected, key=KEY),
    }.items():
        half = peak(lambda make=make: make(x[:240_000]))
        whole = peak(lambda make=make: make(x))
        assert whole < 1.1 * half, name


def test_memory_of_kernels_is_no_matrix_of_all_pairs(random):
    x = random.normal(size=(4000, 4))
    for distance in (kernel_distance, rbf_mmd):
        # One matrix of all pairs would be 128 MB.
        assert peak(lambda distance=distance: distance(x, x[:2000])) < 50e6
