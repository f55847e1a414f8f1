"""Subsets that respect classes: every prefix of the order keeps proportions or balance, and the order is seeded."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sslshift.data.subset import class_order


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 9), st.data())
def test_every_prefix_keeps_the_proportions_of_classes_within_one_image(sizes, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(10 * np.arange(len(sizes)), sizes))
    order = class_order(labels, len(labels), "proportional", seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    for label, size in zip(10 * np.arange(len(sizes)), sizes, strict=True):
        held = np.cumsum(labels[order] == label)
        assert np.abs(held - np.arange(1, len(labels) + 1) * size / len(labels)).max() < 1
    unique = data.draw(st.integers(1, len(labels)))
    assert class_order(labels, unique, "proportional", seed).tolist() == order[:unique].tolist()


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(0, 9), st.data())
def test_every_prefix_is_balanced_as_far_as_classes_reach(sizes, seed, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) - 1, sizes))
    order = class_order(labels, len(labels), "balanced", seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    unique = data.draw(st.integers(1, len(labels)))
    assert class_order(labels, unique, "balanced", seed).tolist() == order[:unique].tolist()
    held = np.bincount(labels[order[:unique]] + 1, minlength=len(sizes))
    unfinished = held[held < sizes]
    # Of those that have more, none is behind another class by two.
    assert not unfinished.size or unfinished.min() >= held.max() - 1


def test_class_orders_are_seeded():
    labels = np.arange(1000) % 10
    for subset in ("proportional", "balanced"):
        first, again, other = (set(class_order(labels, 100, subset, seed).tolist()) for seed in (0, 0, 1))
        assert first == again
        # Two draws of a tenth share a tenth of it, 10 (sd 2.9).
        assert len(first & other) < 25
        # Which classes come first where there are fewer images than classes is drawn as well.
        assert len({tuple(sorted(labels[class_order(labels, 3, subset, seed)])) for seed in range(20)}) > 10
