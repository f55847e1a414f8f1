"""Distances between activations of every layer, against chance and against a loop, and the files that keep them."""

import dataclasses

import numpy as np
import pytest
from layer_encoders import Pixels, images_of, pixels, small_vit

from sslshift.shift import LayerRanges, VisualDna, layer_profile
from sslshift.shift.distances.visual_dna import Histograms, Ranges, visual_dna_distance_of_histograms
from sslshift.shift.layers import LayerProfile, half_splits, layer_distances, layer_means, visual_dna_distance_of_layers


@pytest.fixture(scope="module")
def vit():
    return small_vit()


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
    """Returns the reason why a file is refused, or None: damage to some bytes of a zip file has no effect."""
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
        (lambda: VisualDna.of(other, [images], ranges), "Expected ranges of the encoder"),
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
        (lambda: VisualDna.of(encoder, [images[:3]], ranges).floor(), "got 3 images in"),
        (lambda: VisualDna.of(encoder, [images], ranges, bins=0), "at least one bin and one group"),
        (lambda: VisualDna.of(encoder, [images], ranges, batch_size=0), "at least one image, got 0"),
        (lambda: LayerRanges.of(encoder, []), "Expected at least one image"),
        (lambda: VisualDna.of(encoder, [images[:0]], ranges), "Expected at least one image"),
        (
            lambda: VisualDna.of(encoder, images, ranges),
            r"uint8 \[n, height, width, channels\], got uint8 of shape \(8, 8, 1\)",
        ),
        (lambda: VisualDna.of(encoder, [images / 255], ranges), "got float64"),
        (lambda: LayerRanges.of(encoder, [images, images[:, :4]]), r"uint8 \[n, 8, 8, 1\], got uint8 of shape \(16, 4, 8, 1\)"),
        (lambda: VisualDna.of(encoder, [images_of(random, 2)], ranges), "Expected images"),
        (lambda: LayerRanges({}), "at least one layer"),
        (lambda: LayerRanges({"a": ranges.layers["map"], "b": others.layers["map"]}), "different encoders"),
        (lambda: VisualDna({"map": dna.counts["map"][0]}, dna.images, ranges), "the same groups and bins"),
        (lambda: VisualDna({"other": dna.counts["map"]}, dna.images, ranges), "different layers .* other and map"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            make()
        assert "\n" not in str(raised.value)
    wrong = LayerRanges({"block0": dataclasses.replace(ranges.layers["map"], encoder=vit.fingerprint)})
    with pytest.raises(ValueError, match=r"layers with \{'block0': 16, .*, got \{'block0': 1\}"):
        VisualDna.of(vit, [images_of(random, 2)], wrong)
