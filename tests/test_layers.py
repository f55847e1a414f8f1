"""Activations of every layer as histograms: against NumPy, by hand, over devices, from files, and against chance."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from sslshift.models import PretrainedEncoder, ViT, layer_activations
from sslshift.models.vit import Block
from sslshift.shift import LayerRanges, VisualDna, layer_profile
from sslshift.shift.distances.visual_dna import Histograms, Ranges, visual_dna_distance_of_histograms
from sslshift.shift.layers import LayerProfile, half_splits, layer_distances, layer_means, visual_dna_distance_of_layers
from sslshift.training.step import make_mesh
from sslshift.transfer import activations

SIDE = 8


class Pixels(nn.Module):
    """Its one feature map is the image: the same arithmetic, to the last bit, wherever it runs."""

    gain: float = 1.0

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.sow("intermediates", "map", x * self.gain)
        return x.mean(axis=(1, 2))


class Inverse(nn.Module):
    """Its features are not finite where a pixel is 0."""

    @nn.compact
    def __call__(self, x, *, train):
        del train
        self.sow("intermediates", "map", 1 / x)
        return x.mean(axis=(1, 2))


class Step(Block):
    """A block that costs nothing to compile."""

    gain: float = 1.0

    def __call__(self, x):
        return x * self.gain


class Steps(nn.Module):
    """Eleven blocks, of which block i gives i times the image, and one may be broken."""

    broken: int = -1

    @nn.compact
    def __call__(self, x, *, train):
        del train
        for place in range(11):
            Step(1, gain=np.nan if place == self.broken else place, name=f"block{place}")(x)
        return x.mean(axis=(1, 2))


class Named(PretrainedEncoder):
    """Of a module that only the tests know."""

    @property
    def fingerprint(self):
        return repr(self.module)


def pixels(module=None, channels=1):
    """Activations are the pixels' own values, 0 to 255."""
    return Named(module or Pixels(), {"params": {}}, (SIDE, SIDE, channels), 0.0, 1 / 255)


@pytest.fixture(scope="module")
def vit():
    module = ViT(16, 3, 2, 4)
    variables = jax.jit(lambda key, x: module.init(key, x, train=False))(jax.random.key(0), np.zeros((1, SIDE, SIDE, 3)))
    return PretrainedEncoder(module, variables, (SIDE, SIDE, 3))


def images_of(random, count, channels=3, low=0, high=256):
    return random.integers(low, high, (count, SIDE, SIDE, channels), np.uint8)


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
    # All of the one half lies one bin from the other.
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
            # Forward passes of other batches, and float32, differ in the last digits: few values stand so near an edge.
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
    with pytest.raises(ValueError, match="'map' has more counts than there are 32-bit places: 128; take fewer bins"):
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


def test_distances_are_those_of_the_histograms(vit, random):
    one = images_of(random, 30)
    two = images_of(random, 20, high=100)
    ranges = LayerRanges.of(vit, [one, two])
    x, y = (VisualDna.of(vit, [each], ranges, bins=64) for each in (one, two))
    by_layer = layer_distances(x, y)
    means = layer_means(x, y)
    for name in x.counts:
        sides = [Histograms(each.counts[name].sum(axis=0), ranges.layers[name]) for each in (x, y)]
        assert by_layer[name].shape == (16,)
        assert by_layer[name].dtype == np.float64
        assert means[name] == by_layer[name].mean() == visual_dna_distance_of_histograms(*sides)
    # All neurons of all layers as one histogram each.
    joined = [np.concatenate([each.over()[name].counts for name in x.counts]) for each in (x, y)]
    edges = [np.concatenate([getattr(each, side) for each in ranges.layers.values()]) for side in ("minimum", "maximum")]
    expected = visual_dna_distance_of_histograms(*(Histograms(each, Ranges(*edges)) for each in joined))
    assert visual_dna_distance_of_layers(x, y) == pytest.approx(expected, rel=1e-12)
    assert visual_dna_distance_of_layers(x, x) == 0


@pytest.mark.parametrize(("groups", "number"), [(2, 1), (4, 3), (6, 10), (8, 10), (16, 10)])
def test_halves_are_disjoint_whole_and_all_different(groups, number):
    splits = half_splits(groups)
    assert len(splits) == len({frozenset(one) for one, _ in splits}) == number
    for one, two in splits:
        assert sorted(one + two) == list(range(groups))
        assert len(one) == len(two)
        assert one[0] == 0
    # No group stays with group 0 throughout, where there are enough of them to part.
    assert groups == 2 or set.intersection(*(set(one) for one, _ in splits)) == {0}


def test_floor_and_profile_against_a_loop(random):
    encoder = pixels(channels=2)
    sides = images_of(random, 40, 2), images_of(random, 24, 2, 40, 256)
    ranges = LayerRanges.of(encoder, sides)
    x, y = (VisualDna.of(encoder, [each], ranges, bins=30, groups=4) for each in sides)

    def half(images, groups):
        chosen = images[[i for i in range(len(images)) if i % 4 in groups]]
        return VisualDna.of(encoder, [chosen], ranges, bins=30, groups=1)

    apart = []
    floors = []
    for one, two in (((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))):
        apart += [visual_dna_distance_of_layers(half(sides[0], each), half(sides[1], each)) for each in (one, two)]
        floors.append([visual_dna_distance_of_layers(half(side, one), half(side, two)) for side in sides])
    own = np.mean(floors, axis=0)
    assert x.floor() == pytest.approx(own[0], rel=1e-12)
    profile = layer_profile(x, y)
    assert profile.overall == pytest.approx((np.mean(apart), np.std(apart), np.sqrt(np.mean(own**2))), rel=1e-9)
    assert profile == LayerProfile({"map": profile.overall}, profile.overall, (20, 12))


def test_the_floor_is_what_chance_gives_also_between_sets_of_different_sizes(random):
    encoder = pixels(channels=3)
    ranges = LayerRanges.of(encoder, [images_of(random, 8)])
    levels = []
    floors = []
    for _ in range(40):
        # One brightness for each image: its places are no independent values.
        sets = [images_of(random, count, high=60) + random.integers(0, 190, (count, 1, 1, 1), np.uint8) for count in (64, 16)]
        x, few = (VisualDna.of(encoder, [each], ranges, bins=100) for each in sets)
        levels.append(layer_profile(x, few).overall)
        floors.append((x.floor(), few.floor()))
    distance, floor = (np.mean([level[place] for level in levels]) for place in (0, 2))
    assert floor == pytest.approx(distance, rel=0.1)
    # A quarter of the images: twice the floor.
    assert np.mean(floors, axis=0) @ [2, -1] == pytest.approx(0, abs=0.2 * floor)


def test_a_far_set_is_far_above_the_floor_in_every_layer(vit, random):
    near = images_of(random, 64)
    far = images_of(random, 64, low=100, high=200)
    ranges = LayerRanges.of(vit, [near, far])
    x, away = (VisualDna.of(vit, [each], ranges) for each in (near, far))
    for level in layer_profile(x, away).layers.values():
        assert level.distance > 3 * level.floor > 0
        assert level.distance > 10 * level.spread


def test_files_hold_all_and_need_no_images(tmp_path, vit, random):
    images = images_of(random, 20)
    ranges = LayerRanges.of(vit, [images])
    dna = VisualDna.of(vit, [images], ranges, bins=40)
    ranges.save(tmp_path / "ranges.npz")
    dna.save(tmp_path / "dna.npz")
    again = LayerRanges.load(tmp_path / "ranges.npz")
    loaded = VisualDna.load(tmp_path / "dna.npz")
    assert list(loaded.counts) == list(again.layers) == list(dna.counts)
    loaded.require_mergeable(dna)
    assert (loaded.images == dna.images).all()
    assert loaded.merge(dna).count == 40
    assert loaded.ranges.encoder == vit.fingerprint
    assert visual_dna_distance_of_layers(loaded, VisualDna.of(vit, [images], again, bins=40)) == 0
    # As of another choice of features, on which activations do not depend.
    assert VisualDna.of(vit.with_features("mean"), [images], again, bins=40).floor() == loaded.floor()


def refusal(path, dna):
    """Why a file is refused; None where it is not: zip files have bytes that nobody reads."""
    try:
        VisualDna.load(path).require_mergeable(dna)
    except ValueError as error:
        return str(error)
    return None


def test_damaged_files_are_refused_in_one_sentence(tmp_path, random):
    encoder = pixels()
    path = tmp_path / "dna.npz"
    dna = VisualDna.of(encoder, [images_of(random, 9, 1)], LayerRanges.of(encoder, [images_of(random, 9, 1)]), bins=40)
    dna.save(path)
    whole = path.read_bytes()
    damaged = [b"", whole[: len(whole) // 2], whole[:-30], b"\0" * 500]
    for place in random.integers(0, len(whole), 60):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        message = refusal(path, dna)
        assert message is None or ("dna.npz" in message and "VisualDna of version 1" in message)
        refused += message is not None
    assert refused > 40
    with pytest.raises(ValueError, match=r"none\.npz cannot be read"):
        VisualDna.load(tmp_path / "none.npz")


def test_a_killed_save_leaves_the_old_file(tmp_path, random, monkeypatch):
    encoder = pixels()
    images = images_of(random, 9, 1)
    dna = VisualDna.of(encoder, [images], LayerRanges.of(encoder, [images]), bins=40)
    dna.save(tmp_path / "dna.npz")

    def killed(out, **arrays):
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", killed)
    with pytest.raises(KeyboardInterrupt):
        dna.merge(dna).save(tmp_path / "dna.npz")
    assert VisualDna.load(tmp_path / "dna.npz").count == 9


def test_what_does_not_fit_together_is_refused_in_one_sentence(vit, random):
    encoder = pixels()
    other = pixels(Pixels(2.0))
    images = images_of(random, 16, 1)
    ranges = LayerRanges.of(encoder, [images])
    narrow = LayerRanges({"map": dataclasses.replace(ranges.layers["map"], maximum=np.array([100.0]))})
    dna = VisualDna.of(encoder, [images], ranges, bins=10)
    others = LayerRanges.of(other, [images])
    for make, message in (
        (lambda: VisualDna.of(other, [images], ranges), "Ranges of another encoder cannot be used"),
        (lambda: ranges.merge(others), "different encoders"),
        (lambda: dna.merge(VisualDna.of(other, [images], others, bins=10)), "different encoders"),
        (lambda: layer_distances(dna, VisualDna.of(other, [images], others, bins=10)), "different encoders"),
        (lambda: dna.merge(VisualDna.of(encoder, [images], narrow, bins=10)), "different ranges"),
        (lambda: layer_means(dna, VisualDna.of(encoder, [images], narrow, bins=10)), "different ranges"),
        (lambda: dna.merge(VisualDna.of(encoder, [images], ranges, bins=11)), "8 groups and 10 bins .* 8 groups and 11 bins"),
        (lambda: layer_distances(dna, VisualDna.of(encoder, [images], ranges, bins=11)), "10 and 11 bins"),
        (lambda: dna.merge(VisualDna.of(encoder, [images], ranges, bins=10, groups=2)), "8 groups .* 2 groups"),
        (lambda: layer_profile(dna, VisualDna.of(encoder, [images], ranges, bins=10, groups=2)), "in 8 and in 2 groups"),
        (lambda: VisualDna.of(encoder, [images], ranges, groups=3).floor(), "even number of groups, not 3"),
        (lambda: VisualDna.of(encoder, [images[:3]], ranges).floor(), "The 3 images leave groups empty"),
        (lambda: VisualDna.of(encoder, [images], ranges, bins=0), "At least one bin and one group"),
        (lambda: VisualDna.of(encoder, [images], ranges, batch_size=0), "at least one image, not 0"),
        (lambda: LayerRanges.of(encoder, []), "There are no images"),
        (lambda: VisualDna.of(encoder, [images[:0]], ranges), "There are no images"),
        (
            lambda: VisualDna.of(encoder, images, ranges),
            r"uint8 \[n, height, width, channels\], not uint8 of shape \(8, 8, 1\)",
        ),
        (lambda: VisualDna.of(encoder, [images / 255], ranges), "not float64"),
        (lambda: LayerRanges.of(encoder, [images, images[:, :4]]), r"uint8 \[n, 8, 8, 1\], not uint8 of shape \(16, 4, 8, 1\)"),
        (lambda: VisualDna.of(encoder, [images_of(random, 2)], ranges), "Images"),
        (lambda: LayerRanges({}), "at least one layer"),
        (lambda: LayerRanges({"a": ranges.layers["map"], "b": others.layers["map"]}), "different encoders"),
        (lambda: VisualDna({"map": dna.counts["map"][0]}, dna.images, ranges), "as many groups and bins"),
        (lambda: VisualDna({"other": dna.counts["map"]}, dna.images, ranges), "different layers .* other and map"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)
    wrong = LayerRanges({"block0": dataclasses.replace(ranges.layers["map"], encoder=vit.fingerprint)})
    with pytest.raises(ValueError, match=r"with so many neurons: \{'block0': 1\}; the encoder has \{'block0': 16,"):
        VisualDna.of(vit, [images_of(random, 2)], wrong)


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
