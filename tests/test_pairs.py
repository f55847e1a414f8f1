"""Searches for near pairs of hashes and of features, and their reduction to links and matches, against naive loops."""

import threading

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.data.curation import (
    effective_unique,
    exact_pairs,
    exact_pairs_between,
    groups_of,
    near_pairs_between_by_features,
    near_pairs_between_by_hash,
    near_pairs_by_features,
    near_pairs_by_hash,
    representatives,
)
from sslshift.data.curation.cosine import Vectors, near_in_all, near_in_clusters
from sslshift.data.curation.hamming import BANDS, Band, HashIndex, by_bands, by_comparison
from sslshift.data.curation.pairs import Matches, Pairs, chunks, joined, linked
from sslshift.data.perceptual_hash import FLAT
from sslshift.data.threads import in_threads, watched

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
        (np.array([[1.0, 2.0], [np.nan, 0.0]]), "NaN or infinity in row 1"),
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


def test_long_work_prints_lines_where_no_bar_can_be_drawn(monkeypatch, capsys):
    seconds = iter(range(0, 1000, 3))
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    assert list(watched(range(12), "reading [x]", long=True)) == list(range(12))
    # Three seconds pass with every part: one line after ten seconds, and one every twenty.
    assert capsys.readouterr().err.splitlines() == [
        "reading [x]: 3 of 12, about 36 s left",
        "reading [x]: 10 of 12, about 7 s left",
    ]
    assert watched(range(12), "reading", long=False) == range(12)
    assert list(watched(iter("ab"), "reading", long=True, total=2)) == ["a", "b"]
