"""Splits of labelled images by class, of one label or several for each image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.data.split import stratified_split


def require_split(labels, held_out, rest):
    assert held_out.dtype == rest.dtype == np.int64
    assert (np.diff(held_out) > 0).all()
    assert (np.diff(rest) > 0).all()
    assert sorted([*held_out, *rest]) == list(range(len(labels)))


def counted(sizes, share):
    """Bounds of what is held out of each class, and how many of all: a loop over the rules."""
    least = [1 if size > 1 else 0 for size in sizes]
    most = [size - 1 for size in sizes]
    wanted = share * sum(sizes)
    return least, most, min(max(wanted, sum(least)), sum(most))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.one_of(st.integers(1, 4), st.integers(1, 60)), min_size=1, max_size=12),
    st.one_of(st.sampled_from([0.1, 0.2, 0.25, 0.5]), st.floats(0.001, 0.999)),
    st.integers(0, 2**40),
)
def test_split_keeps_every_class_on_both_sides_in_proportion(sizes, share, key):
    labels = np.random.default_rng(key).permutation(np.repeat(7 * np.arange(len(sizes)) - 3, sizes))
    held_out, rest = stratified_split(labels, share, key)
    require_split(labels, held_out, rest)
    held = [int((labels[held_out] == 7 * k - 3).sum()) for k in range(len(sizes))]
    least, most, wanted = counted(sizes, share)
    assert all(low <= count <= high for low, count, high in zip(least, held, most, strict=True))
    assert abs(sum(held) - wanted) <= 0.5 + 1e-6
    # All classes give the same share but where their bounds do not let them, and no class gives an image more or less.
    low = 0.0
    high = 1.0
    for _ in range(80):
        middle = (low + high) / 2
        total = sum(min(max(middle * n, a), b) for n, a, b in zip(sizes, least, most, strict=True))
        low, high = (middle, high) if total < wanted else (low, middle)
    exact = [min(max(high * n, a), b) for n, a, b in zip(sizes, least, most, strict=True)]
    assert all(abs(count - due) < 1 + 1e-6 for count, due in zip(held, exact, strict=True))
    if all(a <= share * n <= b for n, a, b in zip(sizes, least, most, strict=True)):
        assert all(abs(count - share * n) < 1 + 1e-6 for n, count in zip(sizes, held, strict=True))


def test_split_of_known_sizes():
    labels = np.repeat([0, 1, 2, 3], [50, 30, 20, 1])

    def held(share, key=0):
        return np.bincount(labels[stratified_split(labels, share, key)[0]], minlength=4).tolist()

    # 20.2 of 101 are wanted, of which the class of one gives none: the others give 20.2%.
    assert held(0.2) == [10, 6, 4, 0]
    assert held(0.5) in ([25, 15, 10, 0], [26, 15, 10, 0], [25, 16, 10, 0])
    # Of the few that are wanted, each class gives one.
    assert held(0.001) == [1, 1, 1, 0]
    assert held(0.999) == [49, 29, 19, 0]
    # Five classes of two have to give five of the six that are wanted: the large class gives the one that is left.
    labels = np.repeat(np.arange(6), [2, 2, 2, 2, 2, 20])
    assert np.bincount(labels[stratified_split(labels, 0.2, 0)[0]]).tolist() == [1, 1, 1, 1, 1, 1]
    # Of thirty, half are wanted: as many of each class.
    assert np.bincount(labels[stratified_split(labels, 0.5, 0)[0]]).tolist() == [1, 1, 1, 1, 1, 10]


def test_split_is_a_function_of_labels_share_and_key():
    labels = np.arange(200) % 7
    first = stratified_split(labels, 0.2, 3, 1)
    again = stratified_split(labels.astype(np.uint8), 0.2, 3, 1)
    assert first[0].tolist() == again[0].tolist()
    # Names of classes do not matter, their order does not change.
    assert stratified_split(10 * labels + 5, 0.2, 3, 1)[0].tolist() == first[0].tolist()
    others = [stratified_split(labels, 0.2, *key)[0].tolist() for key in ((3, 2), (4, 1), (3,))]
    assert len({tuple(each) for each in [first[0].tolist(), *others]}) == 4
    # Every image has its chance: over many keys each of 30 is held out about as often.
    labels = np.arange(30) % 3
    counts = sum(np.bincount(stratified_split(labels, 0.2, key)[0], minlength=30) for key in range(500))
    # 100 times each, with a standard deviation of 9.
    assert abs(counts - 100).max() < 45


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(0, 20), st.floats(0.001, 0.999), st.integers(0, 2**40))
def test_split_of_multi_labels_with_one_each_follows_the_same_rules(sizes, without, share, key):
    """The repair can always be made if no image has two labels, and the share met as nearly as the rules allow."""
    columns = np.repeat(np.arange(len(sizes) + 1), [*sizes, without])
    if not len(columns):
        return
    labels = np.random.default_rng(key).permutation(np.eye(len(sizes) + 1, dtype=np.uint8)[columns][:, : len(sizes)])
    held_out, rest = stratified_split(labels, share, key)
    require_split(labels, held_out, rest)
    for size, held, left in zip(sizes, labels[held_out].sum(axis=0), labels[rest].sum(axis=0), strict=True):
        assert held >= (size >= 2)
        assert left >= (size >= 1)
    n = len(columns)
    least = sum(size >= 2 for size in sizes)
    wanted = min(max(int(np.floor(share * n + 0.5)), 1), n - 1)
    assert len(held_out) == min(max(wanted, least), n - sum(size >= 1 for size in sizes))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 6), st.floats(0, 0.6), st.floats(0.05, 0.95), st.integers(0, 2**40))
def test_split_of_any_multi_labels_loses_no_image(n, classes, density, share, key):
    labels = (np.random.default_rng(key).random((n, classes)) < density).astype(np.uint8)
    held_out, rest = stratified_split(labels, share, key)
    require_split(labels, held_out, rest)
    again = stratified_split(labels, share, key)
    assert held_out.tolist() == again[0].tolist()
    # The share is missed only where every image that could mend that is the last of a class on its side.
    missing = min(max(int(np.floor(share * n + 0.5)), 1), n - 1) - len(held_out)
    giving, least = (rest, 1) if missing > 0 else (held_out, 2)
    counts = labels[giving].sum(axis=0)
    needed = labels.sum(axis=0) >= least
    spared = [image for image in giving if all(counts[c] > needed[c] for c in np.flatnonzero(labels[image]))]
    assert not missing or not spared


def test_split_of_multi_labels_with_rare_classes():
    random = np.random.default_rng(0)
    common = random.random((300, 15)) < 0.2
    rare = np.zeros((300, 6), bool)
    for column in range(5):
        rare[random.choice(300, 2, replace=False), column] = True
    rare[17, 5] = True
    labels = np.concatenate([common, rare], axis=1)
    plain = 0
    for key in range(40):
        held_out, rest = stratified_split(labels, 0.2, key)
        assert len(held_out) == 60
        assert labels[held_out].any(axis=0)[:20].all()
        assert labels[rest].any(axis=0).all()
        assert 17 in rest
        # How rarely an order alone does that: a rare class lies on both sides with 0.32.
        drawn = np.random.default_rng(key).permutation(300)
        plain += labels[drawn[:60]].any(axis=0)[:20].all() and labels[drawn[60:]].any(axis=0).all()
    assert plain < 5


def test_split_of_multi_labels_without_a_repair_is_the_seeded_order():
    labels = np.ones((50, 3), np.uint8)
    splits = {tuple(stratified_split(labels, 0.3, key)[0].tolist()) for key in range(20)}
    assert {len(split) for split in splits} == {15}
    assert len(splits) == 20
    assert stratified_split(np.zeros((50, 3), np.uint8), 0.3, 0)[0].tolist() in [list(split) for split in splits]


@pytest.mark.parametrize(
    ("labels", "share", "message"),
    [
        ([0, 1], 0, "between 0 and 1, got 0"),
        ([0, 1], 1.0, r"got 1\.0"),
        ([0, 1], float("nan"), "got nan"),
        ([], 0.5, r"at least one image.*float64 \[0\]"),
        ([0.5, 1], 0.5, r"whole numbers .* got float64 \[2\]"),
        ([[[0]]], 0.5, r"got int64 \[1, 1, 1\]"),
        ([[0, 2]], 0.5, "of 0 or 1, got values between 0 and 2"),
    ],
)
def test_splits_that_make_no_sense_are_named(labels, share, message):
    with pytest.raises(ValueError, match=message):
        stratified_split(np.array(labels), share, 0)


def test_a_single_image_is_not_held_out():
    for labels in (np.array([4]), np.array([[1, 0]]), np.array([[0, 0]]), np.zeros((1, 0), int), np.arange(5)):
        held_out, rest = stratified_split(labels, 0.9, 0)
        assert (held_out.tolist(), rest.tolist()) == ([], list(range(len(labels))))


def test_splits_of_many_classes():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(2000), np.arange(1, 2001)))[:400_000]
    held_out, rest = stratified_split(labels, 0.1, 0)
    assert abs(len(held_out) - 40_000) <= 1
    assert set(labels[rest].tolist()) == set(labels.tolist())
