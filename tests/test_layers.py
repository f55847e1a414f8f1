"""Activations of every layer counted into histograms: against NumPy, by hand, and over devices."""

import dataclasses

import jax
import numpy as np
import pytest
from layer_encoders import SIDE, Inverse, Steps, images_of, pixels, small_vit

from sslshift.models import layer_activations
from sslshift.shift import LayerRanges, VisualDna, layer_profile
from sslshift.shift.distances.visual_dna import Histograms, Ranges
from sslshift.training.step import make_mesh
from sslshift.transfer import activations


@pytest.fixture(scope="module")
def vit():
    return small_vit()


@pytest.fixture
def one_device():
    return jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1])


def test_counts_by_hand():
    # Four images, each of one value: two bins of each channel, cut at 2; images 0 and 2 are the first group.
    encoder = pixels()
    batches = [np.full((1, SIDE, SIDE, 1), value, np.uint8) for value in (0, 4, 1, 9)]
    ranges = LayerRanges({"map": Ranges(np.array([0.0]), np.array([4.0]), encoder.fingerprint)})
    dna = VisualDna.of(encoder, batches, ranges, bins=2, groups=2, batch_size=8)
    places = SIDE * SIDE
    assert dna.counts["map"].tolist() == [[[2 * places, 0]], [[0, 2 * places]]]
    assert dna.counts["map"].dtype == np.int64
    assert (dna.images.tolist(), dna.count, dna.groups) == ([2, 2], 4, 2)
    assert dna.over()["map"].counts.tolist() == [[2 * places, 2 * places]]
    # All values of one half are one bin away from those of the other.
    assert dna.floor() == 1.0


def test_ranges_by_hand_and_merged(random):
    encoder = pixels(channels=2)
    images = images_of(random, 21, 2, 10, 200)
    images[17, 3, 4] = [3, 250]
    whole = LayerRanges.of(encoder, [images], batch_size=8)
    np.testing.assert_allclose(whole.layers["map"].minimum, images.min(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(whole.layers["map"].maximum, images.max(axis=(0, 1, 2)), rtol=1e-6)
    merged = LayerRanges.of(encoder, [images[:5]]).merge(LayerRanges.of(encoder, [images[5:9], images[9:]]))
    for got, expected in ((merged, whole), (LayerRanges.of(encoder, images[:, None], batch_size=16), whole)):
        got.layers["map"].require_same(expected.layers["map"])
    assert whole.encoder == encoder.fingerprint


def test_every_layer_against_numpy(vit, random):
    images = images_of(random, 45)
    bins = 50
    groups = 4
    ranges = LayerRanges.of(vit, [images[:30]])
    dna = VisualDna.of(vit, [images[:7], images[7:7], images[7:]], ranges, bins=bins, groups=groups, batch_size=16)
    seen = jax.device_get(jax.jit(lambda images: layer_activations(vit, images))(images))
    assert list(dna.counts) == list(seen) == ["block0", "block1", "block2"]
    for name, values in seen.items():
        of_layer = ranges.layers[name]
        lows = values[:30].min(axis=(0, 1))
        highs = values[:30].max(axis=(0, 1))
        np.testing.assert_allclose(of_layer.minimum, lows, atol=1e-5)
        np.testing.assert_allclose(of_layer.maximum, highs, atol=1e-5)
        for group in range(groups):
            rows = values[group::groups].reshape(-1, values.shape[-1])
            expected = Histograms.of(rows, of_layer, bins=bins).counts
            got = dna.counts[name][group]
            assert (got.sum(axis=1) == len(rows)).all()
            # Forward passes of other batches, and float32, differ in the last digits: few values are so near an edge.
            assert np.abs(got - expected).sum() / 2 <= 1e-3 * rows.size


def test_bins_are_those_of_numpy_on_exact_activations(random):
    encoder = pixels(channels=3)
    images = images_of(random, 40)
    # 256 bins of width 1 and edges that float32 holds: rounding moves nothing.
    ranges = LayerRanges({"map": Ranges(np.full(3, -0.5), np.full(3, 255.5), encoder.fingerprint)})
    dna = VisualDna.of(encoder, [images], ranges, bins=256)
    expected = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    assert (dna.over()["map"].counts == expected).all()


def test_sharded_is_unsharded_exactly(random, one_device):
    assert make_mesh().size == 8
    encoder = pixels(channels=3)
    images = images_of(random, 53)
    ranges = [LayerRanges.of(encoder, [images], mesh=mesh, batch_size=16) for mesh in (None, one_device)]
    ranges[0].layers["map"].require_same(ranges[1].layers["map"])
    # Sizes that neither the devices nor the images divide.
    sides = [
        VisualDna.of(encoder, [images], ranges[0], bins=37, groups=4, mesh=mesh, batch_size=size)
        for mesh, size in ((None, 1), (None, 20), (one_device, 7), (one_device, 100))
    ]
    for each in sides[1:]:
        assert (each.counts["map"] == sides[0].counts["map"]).all()
        assert (each.images == sides[0].images).all()


def test_a_sharded_vit_counts_as_an_unsharded_one_up_to_rounding(vit, random, one_device):
    images = images_of(random, 30)
    ranges = LayerRanges.of(vit, [images])
    sides = [VisualDna.of(vit, [images], ranges, bins=100, groups=2, mesh=mesh, batch_size=16) for mesh in (None, one_device)]
    for name, counts in sides[0].counts.items():
        assert np.abs(counts - sides[1].counts[name]).sum() / 2 <= 1e-3 * counts.sum()


def test_counts_do_not_overflow_the_devices(random, monkeypatch):
    encoder = pixels()
    images = images_of(random, 64, 1)
    ranges = LayerRanges.of(encoder, [images])
    expected = VisualDna.of(encoder, [images], ranges, bins=16, batch_size=8)
    added = []
    add = activations._add
    monkeypatch.setattr(activations, "_add", lambda totals, counts: (added.append(counts), add(totals, counts)))
    # Room for 24 images of 64 places: emptied after the third, sixth and eighth block.
    monkeypatch.setattr(activations, "_MOST", 24 * SIDE * SIDE)
    got = VisualDna.of(encoder, [images], ranges, bins=16, batch_size=8)
    assert (got.counts["map"] == expected.counts["map"]).all()
    assert sum(counts is not None for counts in added) == 3
    monkeypatch.setattr(activations, "_MOST", 16 * 9 - 1)
    with pytest.raises(ValueError, match="'map' has 128 counts, more than 32-bit indices can address; use fewer bins"):
        VisualDna.of(encoder, [images], ranges, bins=16, batch_size=8)


def test_merged_is_whole(random):
    encoder = pixels(channels=3)
    images = images_of(random, 50)
    ranges = LayerRanges.of(encoder, [images])
    # The first part fills its groups: the second goes on with group 0, as the whole does.
    whole, one, two = (VisualDna.of(encoder, [each], ranges, bins=20) for each in (images, images[:24], images[24:]))
    merged = one.merge(two)
    assert (merged.counts["map"] == whole.counts["map"]).all()
    assert (merged.images == whole.images).all()


def test_constant_neurons_and_values_outside_are_where_they_are_with_numpy(random):
    encoder = pixels(channels=3)
    images = images_of(random, 20)
    images[..., 1] = 7
    for low, high in (
        ([50.5, 7.0, 100.0], [60.5, 7.0, 100.0]),
        (np.zeros(3), [0.0, 300.0, 1e-42]),
        (np.zeros(3), [1e-320] * 3),
    ):
        ranges = Ranges(np.array(low), np.array(high), encoder.fingerprint)
        got = VisualDna.of(encoder, [images], LayerRanges({"map": ranges}), bins=5).over()["map"].counts
        assert got.tolist() == Histograms.of(images.reshape(-1, 3), ranges, bins=5).counts.tolist()


def test_activations_that_are_not_finite_name_their_layer(vit, random):
    broken = pixels(Inverse())
    images = images_of(random, 30, 1, 1)
    ranges = LayerRanges.of(broken, [images])
    images[21, 2, 3] = 0
    for make in (lambda: LayerRanges.of(broken, [images]), lambda: VisualDna.of(broken, [images], ranges, batch_size=8)):
        with pytest.raises(ValueError, match="Layer 'map' has activations that are not finite; the encoder is broken"):
            make()
    # The second block's weights are broken: that it is, and not the ones after it.
    params = vit.variables["params"]
    bad = jax.tree.map(lambda leaf: leaf * np.nan, params["block1"])
    nan = dataclasses.replace(vit, variables=vit.variables | {"params": params | {"block1": bad}})
    with pytest.raises(ValueError, match="Layer 'block1'"):
        LayerRanges.of(nan, [images_of(random, 4)])
    healthy = {f"block{i}": Ranges(np.zeros(16), np.ones(16), nan.fingerprint) for i in range(3)}
    with pytest.raises(ValueError, match="Layer 'block1'"):
        VisualDna.of(nan, [images_of(random, 4)], LayerRanges(healthy))


def test_more_than_ten_layers_keep_their_order_and_their_names(tmp_path, random):
    images = images_of(random, 8, 1)
    names = [f"block{i}" for i in range(11)]
    encoder = pixels(Steps())
    ranges = LayerRanges.of(encoder, [images])
    dna = VisualDna.of(encoder, [images], ranges, bins=8)
    dna.save(tmp_path / "dna.npz")
    assert list(ranges.layers) == list(dna.counts) == list(VisualDna.load(tmp_path / "dna.npz").over()) == names
    assert list(layer_profile(dna, dna).layers) == names
    # Layer i is i times the image: counts are under their own names.
    assert [each.maximum.item() for each in ranges.layers.values()] == pytest.approx(
        [i * float(images.max()) for i in range(11)]
    )
    for broken in (3, 10):
        nan = pixels(Steps(broken))
        of_nan = LayerRanges({name: dataclasses.replace(each, encoder=nan.fingerprint) for name, each in ranges.layers.items()})
        with pytest.raises(ValueError, match=f"Layer 'block{broken}' has"):
            LayerRanges.of(nan, [images])
        with pytest.raises(ValueError, match=f"Layer 'block{broken}' has"):
            VisualDna.of(nan, [images], of_nan, bins=8)
