"""Pairs of images that are the same or nearly so, without ever holding all of them.

A hundred thousand equal images are five billion pairs. Within one set only those are kept that link each image to its group:
less than one per image, a spanning forest of the graph of all pairs. Between two sets each image keeps its nearest of the other
set. Pairs are made and looked at in blocks.
"""

import functools
from collections.abc import Hashable, Sequence

import numpy as np

from sslshift.data.curation.cosine import EXACT, ROUNDING, Vectors, near_features
from sslshift.data.curation.hamming import HashIndex
from sslshift.data.curation.linking import Pairs, linked, matched


def exact_pairs(digests: Sequence[Hashable]) -> Pairs:
    """Each element with the first one that is equal to it: the pairs of every group of equal ones share its first."""
    first: dict[Hashable, int] = {}
    home = np.array([first.setdefault(digest, place) for place, digest in enumerate(digests)], np.int64)
    later = np.flatnonzero(home != np.arange(len(home)))
    return Pairs(home[later], later, np.zeros(len(later)))


def exact_pairs_between(a: Sequence[Hashable], b: Sequence[Hashable]) -> Pairs:
    """Each element of either side with the first of the other side that is equal to it."""
    first_a = {digest: place for place, digest in reversed(list(enumerate(a)))}
    first_b = {digest: place for place, digest in reversed(list(enumerate(b)))}
    matches = {(place, first_b[digest]) for place, digest in enumerate(a) if digest in first_b}
    matches |= {(first_a[digest], place) for place, digest in enumerate(b) if digest in first_a}
    pairs = np.array(sorted(matches), np.int64).reshape(-1, 2)
    return Pairs(pairs[:, 0], pairs[:, 1], np.zeros(len(pairs)))


def near_pairs_by_hash(hashes: np.ndarray, max_distance: int) -> Pairs:
    """Pairs of perceptual hashes, uint64 `[n]`, that differ in at most so many bits; exact.

    They link the groups that all such pairs would make, and are at most n - 1. On 2 cores 10^5 hashes take up to 3 seconds;
    10^6 within 7 bits 40 seconds, or some minutes where pictures are much alike. Flat images are in no pair.
    """
    index = HashIndex(hashes)
    return linked(len(hashes), lambda wanted: index.near_itself(max_distance, wanted), max_distance).pairs


def near_pairs_between_by_hash(a: np.ndarray, b: np.ndarray, max_distance: int) -> Pairs:
    """Each hash of either side with its nearest of the other side, where that differs in at most so many bits; exact."""
    index = HashIndex(b)
    return matched((len(a), len(b)), lambda wanted: index.near(a, max_distance, wanted, shown=True), max_distance).pairs


def near_pairs_by_features(features: np.ndarray, min_cosine: float, *, exact: int = EXACT, seed: int = 0) -> Pairs:
    """Pairs of feature vectors `[n, dim]` of at least this cosine.

    They link the groups that all such pairs would make, and are at most n - 1. On 2 cores 10^5 vectors of 128 numbers take 13
    seconds exactly and 1.5 clustered, 10^6 clustered 40 seconds.

    Args:
      features: `[n, dim]`, any float dtype; may be a memory map.
      min_cosine: above 0, at most 1; compared with a tolerance of 1e-6.
      exact: comparisons up to which every vector is compared with every other; above, they are clustered, see `cosine`.
      seed: of the sample that is clustered.

    Raises:
      ValueError: the features are not finite numbers `[n, dim]`.
    """
    vectors = Vectors(features)
    search = functools.partial(near_features, vectors, vectors, min_cosine, within=True, exact=exact, seed=seed)
    return linked(len(vectors), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING).pairs


def near_pairs_between_by_features(
    a: np.ndarray, b: np.ndarray, min_cosine: float, *, exact: int = EXACT, seed: int = 0
) -> Pairs:
    """Each feature vector of either side with its nearest of the other side, where that has at least this cosine.

    Arguments and errors as of `near_pairs_by_features`.
    """
    first = Vectors(a)
    second = Vectors(b)
    search = functools.partial(near_features, first, second, min_cosine, exact=exact, seed=seed)
    return matched((len(first), len(second)), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING).pairs
