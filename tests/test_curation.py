import csv
import io
import json
import subprocess
import sys
import threading

import hypothesis.extra.numpy as hnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.fft import dctn
from sklearn.datasets import load_sample_images

from sslshift.data import ArraySource, Source, open_source
from sslshift.data.curation import (
    deduplicated,
    effective_unique,
    exact_pairs,
    exact_pairs_between,
    find_duplicates,
    find_leaks,
    groups_of,
    load_kept,
    near_pairs_between_by_features,
    near_pairs_between_by_hash,
    near_pairs_by_features,
    near_pairs_by_hash,
    perceptual_hash,
    perceptual_hashes,
    representatives,
    save_kept,
)
from sslshift.data.curation.cosine import Vectors, near_in_all, near_in_clusters
from sslshift.data.curation.hamming import BANDS, Band, HashIndex, by_bands, by_comparison
from sslshift.data.curation.pairs import Matches, Pairs, chunks, joined, linked
from sslshift.data.curation.report import Section, page
from sslshift.data.likeness import correlations, details, variants
from sslshift.data.perceptual_hash import FLAT, thumbnails
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.sources import PartialSource
from sslshift.data.threads import in_threads


class Pictures(Source):
    """Images of any sizes in a list; counts how often each is read."""

    def __init__(self, images, name="memory:pictures", stored=None):
        super().__init__(name, fingerprint=f"{len(images)} pictures")
        self.images = images
        self.stored = stored
        self.reads = np.zeros(len(images), int)

    def __len__(self):
        return len(self.images)

    def image(self, index, canvas=None):
        self.reads[index] += 1
        return self.images[index]

    def stored_identities(self):
        return self.stored


def jpeg(image, quality):
    content = io.BytesIO()
    Image.fromarray(image.squeeze()).save(content, "JPEG", quality=quality)
    return np.asarray(Image.open(content)).reshape(image.shape)


def resized(image, factor):
    size = [round(side * factor) for side in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image.squeeze()).resize(size, Image.Resampling.BICUBIC)).reshape(*size[::-1], -1)


def brighter(image, levels):
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


def contrasted(image, factor):
    return np.clip(image * factor + 0.5, 0, 255).astype(np.uint8)


CHANGES = {
    "none": lambda image: image.copy(),
    "jpeg 75": lambda image: jpeg(image, 75),
    "half": lambda image: resized(image, 0.5),
    "three quarters": lambda image: resized(image, 0.75),
    "twice": lambda image: resized(image, 2),
    "brighter": lambda image: brighter(image, 12),
    "contrast": lambda image: contrasted(image, 1.1),
    "cut at two sides": lambda image: image[1:, 1:],
    "cut at all sides": lambda image: image[1:-1, 1:-1],
}


@pytest.fixture(scope="module")
def photographs():
    """40 pieces of two photographs that overlap little, 256 x 256 in colour, all with some contrast."""
    tiles = [
        photo[y : y + 90, x : x + 90]
        for photo in load_sample_images().images
        for y in (130, 230, 330)
        for x in range(0, 550, 78)
    ]
    tiles = [tile for tile in tiles if tile.std() > 25][:40]
    return np.stack([np.asarray(Image.fromarray(tile).resize((256, 256))) for tile in tiles])


def bits(a, b):
    return np.bitwise_count(np.asarray(a) ^ np.asarray(b)).astype(int)


# The perceptual hash.


def test_hash_has_a_bit_for_every_frequency_above_the_median():
    # A cosine of 3 periods' halves down and 2 across: that frequency and the mean are positive, all others zero.
    x = (2 * np.arange(32) + 1) * np.pi / 64
    wave = 128 + 60 * np.cos(3 * x)[:, None] * np.cos(2 * x)
    assert perceptual_hash((wave + 0.5).astype(np.uint8)[..., None]) == (1 << 63) | (1 << (63 - (3 * 8 + 2)))


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 75, 3), (256, 200, 3)])
def test_hash_is_that_of_an_explicit_drawing_and_transform(shape, random):
    small = random.integers(0, 256, (6, 7, shape[2]), np.uint8)
    image = np.stack([np.asarray(Image.fromarray(small[..., c]).resize(shape[1::-1])) for c in range(shape[2])], -1)
    gray = (image @ [0.299, 0.587, 0.114] if shape[2] == 3 else image[..., 0]).astype(np.float32)
    drawn = np.asarray(Image.fromarray(gray).resize((32, 32), Image.Resampling.LANCZOS))
    low = dctn(drawn, norm="ortho")[:8, :8].ravel()
    expected = int("".join("1" if value > np.median(low) + 1 else "0" for value in low), 2)
    assert bits(perceptual_hash(image), np.uint64(expected)) <= 1


def test_hashes_of_many_are_those_of_each(photographs):
    assert perceptual_hashes(photographs).tolist() == [int(perceptual_hash(image)) for image in photographs]
    assert perceptual_hashes(photographs).dtype == np.uint64


@pytest.mark.parametrize(
    "change",
    [
        lambda i: jpeg(i, 50),
        lambda i: resized(i, 0.5),
        lambda i: resized(i, 3),
        lambda i: brighter(i, 12),
        lambda i: i[1:, :-1],
    ],
)
def test_hash_hardly_changes_when_a_picture_is_stored_again(photographs, change):
    changed = [perceptual_hash(change(image)) for image in photographs]
    assert bits(perceptual_hashes(photographs), np.array(changed)).max() <= 6


def test_hashes_of_different_pictures_are_far_apart(photographs):
    hashes = perceptual_hashes(photographs)
    others = bits(hashes[:, None], hashes)[np.triu_indices(len(hashes), 1)]
    assert np.median(others) > 24
    assert others.min() > 8


def test_flat_images_have_a_hash_of_their_own_and_are_near_to_nothing(photographs, random):
    flat = np.full((4, 256, 256, 3), 255, np.uint8)
    flat[1] = 0
    flat[2] = (10, 200, 90)
    flat[3] = 128 + random.integers(-1, 2, flat[3].shape)
    hashes = perceptual_hashes(np.concatenate([flat, photographs]))
    assert (hashes[:4] == FLAT).all()
    assert (hashes[4:] != FLAT).all()
    assert near_pairs_by_hash(hashes[:8], 30).first.min(initial=99) >= 4
    assert near_pairs_between_by_hash(hashes[:4], hashes, 64).count == 0


def test_drawings_with_few_frequencies_survive_compression():
    # Most coefficients are zero but for rounding, which must not decide their bits.
    stripes = np.repeat(np.uint8([40, 200] * 4), 32)[:, None, None] * np.ones((1, 256, 3), np.uint8)
    assert bits(perceptual_hash(stripes), perceptual_hash(jpeg(stripes, 75))) <= 1


# Likeness.


def test_detail_is_the_same_at_any_brightness_and_contrast(photographs):
    gray = thumbnails(photographs)
    np.testing.assert_allclose(correlations(details(gray), details(0.5 * gray + 20)), 1, atol=1e-4)
    others = details(gray) @ details(gray).T - np.eye(len(gray))
    assert others.max() < 0.9


def test_flat_thumbnails_have_no_detail():
    assert (details(np.full((1, 32, 32), 77, np.float32)) == 0).all()


def test_variants_are_the_picture_itself_then_cut_grown_and_reduced(photographs):
    image = photographs[0]
    made = variants(thumbnails(image[None]))[0]
    np.testing.assert_allclose(made[0], thumbnails(image[None])[0], atol=1e-3)
    side = image.shape[0] / 28
    cuts = [image[round(top * side) :, : round(256 - right * side)] for top in (0, 1) for right in (0, 1)]
    for changed in [*cuts, np.pad(image, ((9, 0), (0, 0), (0, 0)), mode="edge"), resized(image, 16 / 256)]:
        found = details(made) @ details(thumbnails(changed[None]))[0]
        assert found.max() > 0.99


# Pairs of hashes.

clustered_hashes = st.tuples(
    hnp.arrays(np.uint64, st.integers(1, 4)), hnp.arrays(np.int64, st.integers(0, 40), elements=st.integers(0, 2**62))
).map(lambda drawn: scattered(*drawn))


def scattered(centres, seeds):
    """Hashes around a few centres, a random number of bits away from them."""
    changes = [np.random.default_rng(seed) for seed in seeds]
    masks = [np.bitwise_or.reduce(np.uint64(1) << r.integers(0, 64, r.integers(1, 12)).astype(np.uint64)) for r in changes]
    return np.array([centres[seed % len(centres)] ^ mask for seed, mask in zip(seeds, masks, strict=True)], np.uint64)


def naive_pairs(a, b, max_distance, within=False):
    distance = np.array([[int(x ^ y).bit_count() for y in b.tolist()] for x in a.tolist()]).reshape(len(a), len(b))
    near = (distance <= max_distance) & (a != FLAT)[:, None] & (b != FLAT)
    return {(i, j, distance[i, j]) for i, j in zip(*np.nonzero(near), strict=True) if not within or i < j}


def as_list(blocks):
    return list(zip(*(part.tolist() for part in joined(blocks)), strict=True))


@settings(deadline=None, max_examples=60)
@given(clustered_hashes, clustered_hashes, st.integers(0, 15))
def test_both_searches_find_every_near_pair_once(a, b, max_distance):
    a = a[a != FLAT]
    b = b[b != FLAT]
    for first, second, within in ((a, b, False), (a, a, True)):
        expected = sorted(naive_pairs(first, second, max_distance, within))
        bands = [Band(second, number) for number in range(BANDS)]
        assert sorted(as_list(by_comparison(first, second, max_distance, within))) == expected
        assert sorted(as_list(by_bands(first, second, bands, max_distance, within))) == expected


def test_search_by_bands_is_taken_where_it_is_cheaper_and_finds_the_same(random, monkeypatch):
    hashes = random.integers(1, 2**63, 30_000, np.uint64)
    hashes[20_000:] = hashes[:10_000] ^ (np.uint64(1) << random.integers(0, 64, 10_000).astype(np.uint64))
    hashes[7] = hashes[8] = FLAT
    expected = sorted(as_list(by_comparison(hashes, hashes, 2, within=True)))
    monkeypatch.setattr("sslshift.data.curation.hamming.by_comparison", None)
    found = sorted(as_list(HashIndex(hashes).near_itself(2)))
    assert found == [pair for pair in expected if FLAT not in (hashes[pair[0]], hashes[pair[1]])]
    assert len(found) >= 9_996


@settings(deadline=None)
@given(clustered_hashes, st.integers(0, 20))
def test_pairs_within_a_set_link_the_groups_of_all_pairs_and_no_more(hashes, max_distance):
    pairs = near_pairs_by_hash(hashes, max_distance)
    every = naive_pairs(hashes, hashes, max_distance, within=True)
    assert set(zip(*(side.tolist() for side in pairs), strict=True)) <= every
    columns = np.array(sorted(every), np.int64).reshape(-1, 3).T
    groups = groups_of(len(hashes), Pairs(*columns))
    assert (groups == groups_of(len(hashes), pairs)).all()
    assert pairs.count == len(hashes) - effective_unique(groups)


@settings(deadline=None)
@given(clustered_hashes, clustered_hashes, st.integers(0, 20))
def test_pairs_between_sets_hold_the_nearest_of_each_image(a, b, max_distance):
    pairs = near_pairs_between_by_hash(a, b, max_distance)
    every = naive_pairs(a, b, max_distance)
    found = set(zip(*(side.tolist() for side in pairs), strict=True))
    assert found <= every
    for side in (0, 1):
        nearest = {}
        for pair in every:
            nearest[pair[side]] = min(pair[2], nearest.get(pair[side], 99))
        assert {pair[side]: min(p[2] for p in found if p[side] == pair[side]) for pair in found} == nearest


@pytest.mark.parametrize("distance", [-1, 65])
def test_impossible_distances_are_refused(distance):
    with pytest.raises(ValueError, match="0 to 64 bits"):
        near_pairs_by_hash(np.ones(3, np.uint64), distance)


def test_a_set_of_equal_images_does_not_make_all_its_pairs(random):
    # 9,000 would be 40 million pairs.
    hashes = np.full(9_000, 0xF0F0F0F0F0F0F0F0, np.uint64)
    hashes[4_500:] ^= np.uint64(1) << random.integers(0, 64, 4_500).astype(np.uint64)
    assert near_pairs_by_hash(hashes, 4).count == 8_999
    pairs = near_pairs_between_by_hash(hashes[:6_000], hashes[6_000:], 4)
    assert len(np.unique(pairs.first)) == 6_000
    assert pairs.count <= 9_000
    features = np.ones((6_000, 8)) + 1e-3 * random.random((6_000, 8))
    assert near_pairs_by_features(features, 0.99).count == 5_999
    assert near_pairs_between_by_features(features[:2_700], features[2_700:], 0.99).count <= 6_000


# Pairs of features.


def naive_cosines(a, b):
    unit = [
        x / np.where(np.linalg.norm(x, axis=1, keepdims=True) > 0, np.linalg.norm(x, axis=1, keepdims=True), 1) for x in (a, b)
    ]
    return unit[0] @ unit[1].T


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pairs_by_features_are_those_of_a_high_cosine(dtype, random, monkeypatch):
    monkeypatch.setattr("sslshift.data.curation.cosine._TILE", (7, 13))
    features = random.normal(size=(60, 5)).astype(dtype)
    features[50:] = features[:10] * 3
    features[5] = 0
    cosine = naive_cosines(features.astype(np.float64), features.astype(np.float64))
    expected = {(i, j) for i, j in zip(*np.nonzero(cosine >= 0.9), strict=True) if i < j}
    vectors = Vectors(features)
    found = as_list(near_in_all(vectors, vectors, 0.9, within=True))
    assert {pair[:2] for pair in found} == expected
    assert len(found) == len(expected)
    np.testing.assert_allclose([pair[2] for pair in found], [1 - cosine[pair[:2]] for pair in found], atol=1e-3)
    pairs = near_pairs_by_features(features, 0.9)
    assert (groups_of(60, pairs) == groups_of(60, Pairs(*np.array([(*pair, 0) for pair in expected]).T))).all()
    between = near_pairs_between_by_features(features[:50], features[50:], 0.999)
    assert {(place, place) for place in range(10) if place != 5} == set(
        zip(between.first.tolist(), between.second.tolist(), strict=True)
    )


def test_equal_features_have_a_cosine_of_one(random):
    features = np.repeat(random.normal(size=(20, 77)).astype(np.float32), 2, axis=0)
    pairs = near_pairs_by_features(features, 1.0)
    assert (pairs.first == np.arange(0, 40, 2)).all()
    assert (pairs.second == pairs.first + 1).all()


def test_clustered_search_finds_nearly_all_pairs_with_a_fraction_of_the_work(random):
    centres = random.normal(size=(50, 32))
    features = centres[random.integers(0, 50, 12_000)] + 0.7 * random.normal(size=(12_000, 32))
    features[9_000:] = features[:3_000] + 0.25 * random.normal(size=(3_000, 32))
    vectors = Vectors(features.astype(np.float32))
    expected = {pair[:2] for pair in as_list(near_in_all(vectors, vectors, 0.95, within=True))}
    assert len(expected) > 2_000
    found = {pair[:2] for pair in as_list(near_in_clusters(vectors, vectors, 0.95, within=True))}
    assert found <= expected
    assert len(found) > 0.99 * len(expected)
    # One cluster for each, as in SemDeDup, loses those at the borders.
    alone = {pair[:2] for pair in as_list(near_in_clusters(vectors, vectors, 0.95, within=True, probes=1))}
    assert len(alone) < len(found)
    other = Vectors(features[:500].astype(np.float32))
    expected = {pair[:2] for pair in as_list(near_in_all(other, vectors, 0.95))}
    found = {pair[:2] for pair in as_list(near_in_clusters(other, vectors, 0.95))}
    assert found <= expected
    assert len(found) > 0.99 * len(expected)
    clustered = near_pairs_by_features(features, 0.95, exact=0)
    assert clustered.count > 0.99 * near_pairs_by_features(features, 0.95).count


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.ones(5), r"\[images, dim\]"),
        (np.array([["a", "b"]]), "Expected features as numbers"),
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), "row 1 holds other values"),
    ],
)
def test_features_that_are_none_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        near_pairs_by_features(features, 0.9)


def test_features_of_two_encoders_and_impossible_cosines_are_refused():
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        near_pairs_between_by_features(np.ones((2, 3)), np.ones((2, 4)), 0.9)
    with pytest.raises(ValueError, match=r"above 0 and at most 1, got 1\.5"):
        near_pairs_by_features(np.ones((2, 3)), 1.5)


# Links, matches, groups.


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=80), st.integers(1, 7))
def test_links_are_a_spanning_forest_in_any_order(edges, size):
    edges = np.array([(min(e), max(e)) for e in edges if e[0] != e[1]], np.int64).reshape(-1, 2)
    blocks = [(e[:, 0], e[:, 1], np.zeros(len(e))) for e in np.array_split(edges, size)]
    pairs = linked(30, lambda wanted: blocks, 0).pairs
    groups = groups_of(30, Pairs(edges[:, 0], edges[:, 1], np.zeros(len(edges))))
    assert (groups_of(30, pairs) == groups).all()
    assert pairs.count == 30 - effective_unique(groups)


def test_what_is_linked_already_is_not_measured_and_what_is_beyond_the_limit_is_told(monkeypatch):
    monkeypatch.setattr("sslshift.data.curation.pairs.CHUNK", 2)
    measured = []

    def measure(first, second):
        measured.extend(zip(first.tolist(), second.tolist(), strict=True))
        return np.abs(second - first) / 10

    first = np.array([0, 1, 0, 3, 0])
    second = np.array([1, 2, 2, 5, 5])
    found = linked(6, lambda wanted: [(first, second, np.zeros(5))], 0.1, measure)
    assert measured == [(0, 1), (1, 2), (3, 5), (0, 5)]
    assert found.pairs.first.tolist() == [0, 1]
    assert found.missed.first.tolist() == [3, 0]
    np.testing.assert_allclose(found.missed.distance, [0.2, 0.5])


def test_matches_keep_the_nearest_and_say_what_is_open():
    matches = Matches((3, 3), 1.0)
    matches.add(np.array([0, 0, 1]), np.array([0, 1, 2]), np.array([0.5, 0.2, 3.0]))
    assert matches.open(np.array([0, 0, 1]), np.array([0, 2, 2])).tolist() == [False, True, True]
    table = np.array([[0.6, 0.3, 0.4], [0.4, 0.1, 0.5]])
    assert matches.nearer(np.arange(2), np.arange(3), table).tolist() == [[False, False, True], [True, True, False]]
    pairs, missed = matches.found()
    assert list(zip(*(side.tolist() for side in pairs), strict=True)) == [(0, 0, 0.5), (0, 1, 0.2)]
    assert (missed.first.tolist(), missed.second.tolist()) == ([1], [2])


@settings(deadline=None)
@given(st.lists(st.integers(0, 200_000), max_size=4))
def test_chunks_are_the_same_pairs(sizes):
    blocks = [(np.arange(size) + 7 * place, np.arange(size), np.full(size, place)) for place, size in enumerate(sizes)]
    cut = list(chunks(blocks))
    assert all(len(block[0]) == 1 << 16 for block in cut[:-1])
    for whole, part in zip(joined(blocks), joined(cut), strict=True):
        assert (whole == part).all()


def test_exact_pairs_share_the_first_of_each_group():
    pairs = exact_pairs(["a", "b", "a", "c", "b", "a"])
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 1, 0], [2, 4, 5])
    between = exact_pairs_between(["a", "b", "a", "c"], ["c", "a", "a", "d"])
    assert list(zip(between.first.tolist(), between.second.tolist(), strict=True)) == [(0, 1), (0, 2), (2, 1), (3, 0)]


def test_groups_are_counted_and_kept_by_their_first():
    pairs = Pairs(np.array([1, 2]), np.array([4, 4]), np.zeros(2))
    groups = groups_of(6, pairs, Pairs(np.array([3]), np.array([5]), np.zeros(1)))
    assert groups.tolist() == [0, 1, 1, 3, 1, 3]
    assert effective_unique(groups) == 3
    assert representatives(groups).tolist() == [0, 1, 3]
    assert effective_unique(groups_of(4)) == 4


def test_work_in_threads_keeps_its_order_and_does_not_run_ahead():
    started = []
    lock = threading.Lock()

    def work(part):
        with lock:
            started.append(part)
        return part * part

    results = in_threads(work, range(1000))
    assert next(results) == 0
    assert len(started) < 500
    assert list(results) == [part * part for part in range(1, 1000)]


# Duplicates of a source.


@pytest.fixture
def twice(photographs):
    """30 photographs, of which 3 come again, 2 as JPEG and one reduced to half; and four flat images, two of them equal."""
    images = list(photographs[:30])
    images += [images[4].copy(), images[9].copy(), images[4].copy()]
    images += [jpeg(images[0], 60), jpeg(images[9], 80), resized(images[1], 0.5)]
    images += [np.full((64, 64, 3), gray, np.uint8) for gray in (0, 255, 254, 255)]
    return Pictures(images)


@pytest.mark.parametrize(("by", "near"), [("digest", 0), ("hash", 3), ("pixels", 3)])
def test_duplicates_of_a_source_are_counted(twice, by, near):
    found = find_duplicates(twice, by=by)
    assert list(zip(found.exact.first.tolist(), found.exact.second.tolist(), strict=True)) == [
        (4, 30),
        (9, 31),
        (4, 32),
        (37, 39),
    ]
    assert (found.count, found.near.count, found.effective_unique) == (40, near, 36 - near)
    if near:
        assert {(0, 33), (9, 34), (1, 35)} == set(zip(found.near.first.tolist(), found.near.second.tolist(), strict=True))
    assert (twice.reads == 1).all()


def test_deduplicated_source_has_the_first_of_each_group(twice):
    kept = deduplicated(twice)
    assert len(kept) == 33
    assert (kept.image(30) == twice.images[36]).all()
    assert find_duplicates(kept).effective_unique == 33
    assert deduplicated(kept) is kept


def test_duplicates_by_features_are_those_of_the_given_array(twice, random):
    features = random.normal(size=(40, 16))
    features[20] = 2 * features[3]
    found = find_duplicates(twice, by="features", features=features, min_cosine=0.99)
    assert (found.near.first.tolist(), found.near.second.tolist()) == ([3], [20])
    assert found.effective_unique == 35


def test_stored_hashes_spare_reading_all_but_candidates(twice):
    hashes = np.array([perceptual_hash(image) for image in twice.images])
    digests = [image.tobytes() for image in twice.images]
    expected = find_duplicates(twice)
    stored = Pictures(twice.images, stored=(digests, hashes))
    assert find_duplicates(stored, by="hash").effective_unique == 33
    assert stored.reads.sum() == 0
    found = find_duplicates(stored)
    assert (found.groups == expected.groups).all()
    assert np.flatnonzero(stored.reads).tolist() == [0, 1, 9, 33, 34, 35]


def test_imported_sources_have_their_duplicates_and_leaks_found(twice, photographs, tmp_path):
    for folder, images in (("pretraining", twice.images), ("test", photographs[25:40])):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
        run_import(Import(tmp_path / folder, tmp_path / f"{folder}-stored", Encoding(64)), workers=0)
    source, test = (open_source(f"arrayrecord:{tmp_path}/{folder}-stored") for folder in ("pretraining", "test"))
    found = find_duplicates(source)
    assert (found.exact.count, found.near.count) == (4, 3)
    # A folder of images at full size against images that were made smaller and stored as JPEG.
    for own in (source, open_source(f"folder:{tmp_path}/pretraining")):
        leaks = find_leaks(own, test)
        assert (np.unique(leaks.pairs.first).tolist(), leaks.test_indices.tolist()) == (list(range(25, 30)), list(range(5)))


def test_similar_clothes_are_no_duplicates_though_their_hashes_say_so():
    source = PartialSource(open_source("bundled:fashion_mnist"), np.arange(3000, 9000))
    found = find_duplicates(source)
    # By sight: one dress, one hooded jacket of the 6,000.
    assert (found.near.first + 3000).tolist() == [3568]
    assert (found.near.second + 3000).tolist() == [5448]
    assert found.missed.distance.min() > 1 - 0.996
    assert find_duplicates(source, by="hash").effective_unique < 5700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "looks"}, "one of digest, hash, pixels, features for by, got 'looks'"),
        ({"by": "features"}, "Expected features"),
        ({"by": "features", "features": np.ones((3, 2))}, "has 40 images, but there are 3 rows"),
        ({"min_correlation": 0}, "above 0 and at most 1, got 0"),
        ({"max_distance": 65}, "0 to 64 bits"),
    ],
)
def test_wrong_arguments_are_one_sentence(twice, arguments, message):
    with pytest.raises(ValueError, match=message):
        find_duplicates(twice, **arguments)


# Leaks.


@pytest.fixture(scope="module")
def clothes():
    return open_source("bundled:fashion_mnist"), open_source("bundled:fashion_mnist/test")


@pytest.mark.parametrize("change", CHANGES)
def test_changed_test_images_are_found_among_similar_ones_and_nothing_else(clothes, change):
    train, test = clothes
    planted = np.arange(1000, 1060)
    images = [train.image(i) for i in range(3000)] + [CHANGES[change](test.image(i)) for i in planted]
    leaks = find_leaks(Pictures(images), test, np.arange(900, 1400))
    assert set(leaks.test_indices) <= set(planted)
    assert leaks.count >= 0.96 * len(planted)
    assert (leaks.pairs.first - 3000 == leaks.pairs.second - 1000).all()
    assert set(leaks.how) == {"same pixels" if change == "none" else "near"}
    assert leaks.missed.distance.min() > 1 - 0.996


def test_leaks_that_the_bundled_clothes_really_have(clothes):
    train, test = clothes
    # By sight: a dress and a shirt, and trousers that the test split holds twice.
    leaks = find_leaks(PartialSource(train, np.arange(11_000, 19_000)), test, np.array([4998, 7, 2605, 2115, 4926, 100]))
    pairs = zip((leaks.pairs.first + 11_000).tolist(), leaks.pairs.second.tolist(), strict=True)
    assert list(pairs) == [(11932, 2605), (13360, 4998), (18494, 2115), (18494, 4926)]
    assert (leaks.count, np.unique(leaks.pairs.first).tolist()) == (4, [932, 2360, 7494])
    assert set(leaks.how) == {"near"}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photographs_are_found(photographs, change):
    source = Pictures([CHANGES[change](image) for image in photographs[:20]])
    leaks = find_leaks(source, Pictures(list(photographs)))
    assert (leaks.pairs.first == leaks.pairs.second).all()
    assert leaks.count >= 19


def test_every_image_concerned_is_in_a_pair_and_same_pixels_go_before_near(photographs):
    a, b, c = photographs[:3]
    source = Pictures([a, jpeg(b, 60), a.copy(), b, c])
    leaks = find_leaks(source, Pictures([b, a, b.copy(), jpeg(a, 60)]))
    assert leaks.test_indices.tolist() == [0, 1, 2, 3]
    assert np.unique(leaks.pairs.first).tolist() == [0, 1, 2, 3]
    same = [pair for pair, how in zip(zip(*leaks.pairs[:2], strict=True), leaks.how, strict=True) if how == "same pixels"]
    assert same == [(0, 1), (2, 1), (3, 0), (3, 2)]


def test_flat_images_leak_where_their_pixels_are_the_same():
    flat = [np.full((20, 20, 1), gray, np.uint8) for gray in (0, 128, 255)]
    leaks = find_leaks(Pictures(flat[:2]), Pictures(flat[1:]))
    assert (leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.how) == ([1], [0], ("same pixels",))


def test_generated_images_are_in_no_test_split(clothes):
    leaks = find_leaks(open_source("synthetic:dead_leaves?size=300"), clothes[1], np.arange(300))
    assert (leaks.count, leaks.pairs.count, leaks.how) == (0, 0, ())


# The file of what to keep, the page, the command.


def test_kept_images_are_read_back_and_open_with_the_source(tmp_path):
    source = open_source("bundled:mnist")
    file = tmp_path / "kept.parquet"
    save_kept(file, np.array([1, 5, 3999]), source)
    assert load_kept(file, source).tolist() == [1, 5, 3999]
    kept = open_source(f"bundled:mnist?keep={file}")
    assert len(kept) == 3
    assert (kept.image(2) == source.image(3999)).all()


def test_what_cannot_be_kept_is_refused(tmp_path):
    source = open_source("bundled:mnist")
    file = tmp_path / "kept.parquet"
    for indices in ([], [3, 2], [2, 2], [-1, 2], [4000]):
        with pytest.raises(ValueError, match="ascending indices of the 4,000 images of bundled:mnist"):
            save_kept(file, np.array(indices), source)
    with pytest.raises(ValueError, match=r"There is no file .*kept\.parquet"):
        load_kept(file, source)
    save_kept(file, np.arange(10), source)
    with pytest.raises(ValueError, match=r"made for bundled:mnist with 4,000 images; bundled:mnist/test with 1,000 is another"):
        load_kept(file, open_source("bundled:mnist/test"))
    table = pq.read_table(file)
    about = json.loads(table.schema.metadata[b"sslshift.kept"])
    for metadata, column, message in (
        (None, "index", "is not a file of images to keep"),
        (about | {"version": 2}, "index", "has version 2"),
        (about, "place", "is not a file of images to keep"),
        (about, "index", "not ascending"),
    ):
        schema = pa.schema([pa.field(column, pa.int64())], metadata=metadata and {"sslshift.kept": json.dumps(metadata)})
        pq.write_table(pa.table({column: np.array([7, 7])}, schema=schema), file)
        with pytest.raises(ValueError, match=message):
            load_kept(file, source)
    file.write_text("no table")
    with pytest.raises(ValueError, match="is not a file of images to keep"):
        load_kept(file, source)


def test_page_shows_both_pictures_and_takes_names_as_text(random):
    source = ArraySource("memory:<b>", random.integers(0, 256, (3, 5, 4, 1), np.uint8))
    pairs = Pairs(np.array([0]), np.array([2]), np.array([0.25]))
    text = page(
        "<i>",
        "1 < 2",
        [Section("near", pairs, lambda d: f"<{d}>"), Section("none", Pairs(*np.zeros((3, 0))), str)],
        source,
        source,
    )
    assert text.count("data:image/png;base64,") == 2
    assert "memory:&lt;b&gt;, image 2" in text
    assert "&lt;0.25&gt;" in text
    assert "<i>" not in text
    assert "None." in text
    assert "http:" not in text
    assert "https:" not in text


def command(*arguments):
    return subprocess.run([sys.executable, "-m", "tools.find_duplicates", *arguments], capture_output=True, text=True)


def test_command_finds_writes_and_can_be_judged(photographs, tmp_path):
    web = tmp_path / "web"
    test = tmp_path / "test"
    out = tmp_path / "out"
    web.mkdir(), test.mkdir()
    for i, image in enumerate(photographs[:12]):
        Image.fromarray(image).save(web / f"{i:02}.png")
    Image.fromarray(photographs[3]).save(web / "again.png")
    Image.fromarray(photographs[5]).save(web / "small.jpg", quality=60)
    Image.fromarray(photographs[7]).save(test / "a.jpg")
    Image.fromarray(photographs[20]).save(test / "b.jpg")
    done = command(f"--source=folder:{web}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "14 images: 1 exact duplicates, 1 near-duplicates" in done.stdout
    assert "12 effective unique" in done.stdout
    with open(out / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["how"], row["first_origin"], row["second_origin"]) for row in rows] == [
        ("exact", str(web / "03.png"), str(web / "again.png")),
        ("near", str(web / "05.png"), str(web / "small.jpg")),
    ]
    assert 0 <= float(rows[1]["distance"]) < 0.004
    kept = open_source(f"folder:{web}?keep={out / 'kept.parquet'}")
    assert len(kept) == 12
    assert (out / "pairs.html").read_text().count("<img") >= 4
    done = command(f"--source=folder:{web}", f"--against=folder:{test}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    also = f"0 of 2 images of folder:{test} are also among the 14 of folder:{web}, pixel for pixel; similar to images of it"
    assert f"{also} without being equal: 1" in done.stdout
    assert len(open_source(f"folder:{web}?keep={out / 'kept.parquet'}")) == 13


def test_command_by_features(tmp_path, random):
    features = random.normal(size=(1000, 8))
    features[10] = features[20]
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "none.npy", np.array([{}]), allow_pickle=True)
    flags = ["--source=bundled:mnist/test", f"--out={tmp_path / 'out'}", f"--features={tmp_path / 'features.npy'}"]
    done = command(*flags, "--min_cosine=0.999")
    assert "1 near-duplicates (a cosine of features of at least 0.999), 999 effective unique" in done.stdout, done.stderr
    done = command(*flags, "--against=bundled:mnist/test", f"--against_features={tmp_path / 'none.npy'}")
    assert done.returncode == 1
    assert "none.npy cannot be read as an array that numpy.save wrote" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--source=bundled:cifar"], 1, "expected one of fashion_mnist, mnist"),
        (
            ["--source=bundled:mnist/test", "--against=bundled:mnist/test", "--by=hash"],
            1,
            "Expected --by=pixels or --features with --against, got --by=hash",
        ),
        (["--source=bundled:mnist/test", "--against_features=x.npy"], 1, "--against_features goes with"),
        (["--source=bundled:mnist/test", "--against=bundled:mnist/test"], 1, "No image of bundled:mnist/test would remain"),
        (["--source=bundled:mnist/test", "--max_distance=65"], 2, "upper_bound|64"),
        (["--source=bundled:mnist/test", "--min_cosin=1"], 2, "min_cosine"),
    ],
)
def test_errors_of_the_command_are_one_sentence(flags, code, message, tmp_path):
    done = command(*flags, f"--out={tmp_path}")
    assert done.returncode == code
    assert any(part in done.stderr for part in message.split("|")), done.stderr
    assert "Traceback" not in done.stderr


def test_out_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    done = command("--source=bundled:mnist/test", f"--out={tmp_path / 'file'}")
    assert done.returncode == 1
    assert "Expected a folder for --out, got the file" in done.stderr
