"""Search for all pairs of feature vectors with a high cosine, in blocks: memory does not grow with the number of pairs.

For up to about 10^5 vectors the search is exact, by matrix products. For more vectors it is clustered: spherical k-means finds
clusters on a sample, and every vector is compared with the vectors in its few nearest clusters, so that the work grows as
n^1.5. The two vectors of a near pair can be on both sides of the border between two clusters, so more than one cluster is
searched.

References:
  Abbas et al., `SemDeDup: Data-efficient learning at web-scale through semantic deduplication
  <https://arxiv.org/abs/2303.09540>`_, 2023
  Dhillon & Modha, `Concept Decompositions for Large Sparse Text Data using Clustering
  <https://doi.org/10.1023/A:1007612920971>`_, 2001 (spherical k-means)
"""

import copy
import functools
from collections.abc import Iterator

import numpy as np

from sslshift.data.curation.pairs import Block, Pairs, Wanted, linked, matched, near_block
from sslshift.data.threads import watched

# Largest number of comparisons of the exact search, enough for 10^5 vectors. Above it the search is clustered.
EXACT = 10**10
# Clusters in which each vector is searched. Of the pairs with a cosine of 0.95 among 10^5 vectors around 200 centres, one
# cluster found 97.9%, two 99.94% and three 99.99%, in a tenth of the time of the exact search.
PROBES = 3
# The computed cosine of equal vectors can be less than 1 by this much.
ROUNDING = 1e-6
# Numbers of vectors of the two sides in one matrix product, whose result takes 16 MiB.
_TILE = (1024, 4096)
# Vectors per cluster in the sample, and rounds of k-means: enough for clusters that only have to divide the work.
_SAMPLE = 64
_ROUNDS = 10


def near_pairs_by_features(features: np.ndarray, min_cosine: float, *, exact: int = EXACT, seed: int = 0) -> Pairs:
    """Returns pairs of feature vectors `[n, dim]` with at least this cosine.

    The pairs link the groups that all such pairs would form; there are at most n - 1. On 2 cores 10^5 vectors of 128 numbers
    take 13 seconds exactly and 1.5 seconds clustered; 10^6 vectors take 40 seconds clustered.

    Args:
      features: `[n, dim]`, any float dtype; may be a memory map.
      min_cosine: minimum cosine of a pair, above 0 and at most 1; compared with a tolerance of 1e-6.
      exact: largest number of comparisons of the exact search; above it the search is clustered.
      seed: seed of the sample that is clustered.

    Raises:
      ValueError: the features are not finite numbers `[n, dim]`.
    """
    vectors = Vectors(features)
    search = functools.partial(near_features, vectors, vectors, min_cosine, within=True, exact=exact, seed=seed)
    return linked(len(vectors), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING).pairs


def near_pairs_between_by_features(
    a: np.ndarray, b: np.ndarray, min_cosine: float, *, exact: int = EXACT, seed: int = 0
) -> Pairs:
    """Returns each feature vector of either side, paired with the nearest vector of the other side at this cosine or above.

    The arguments and errors are those of `near_pairs_by_features`.
    """
    first = Vectors(a)
    second = Vectors(b)
    search = functools.partial(near_features, first, second, min_cosine, exact=exact, seed=seed)
    return matched((len(first), len(second)), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING).pairs


class Vectors:
    """Feature vectors `[n, dim]` of any float dtype, which are returned as unit vectors in float32.

    The array itself is neither copied nor converted as a whole, since it may be a memory map larger than memory.

    Raises:
      ValueError: the array is not `[n, dim]`, or a value is not finite.
    """

    def __init__(self, features: np.ndarray):
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise ValueError(f"Expected features as numbers [images, dim], got {features.dtype} {list(features.shape)}.")
        self._features = features
        self.dim = features.shape[1]
        # Computed in float64, since squares of float16 overflow, and a few rows at a time, since the array may exceed memory.
        norms = [np.linalg.norm(features[i : i + 4096].astype(np.float64), axis=1) for i in range(0, len(features), 4096)]
        norm = np.concatenate([np.zeros(0), *norms])
        if not np.isfinite(norm).all():
            raise ValueError(f"Expected finite features, got NaN or infinity in row {int(np.argmin(np.isfinite(norm))):,}.")
        # A vector of zeros stays zero, so that its cosine with every vector is 0.
        self._scale = (1 / np.where(norm > 0, norm, 1)).astype(np.float32)
        self._places = np.arange(len(features))

    def among(self, places: np.ndarray) -> "Vectors":
        """Returns the vectors at these positions, without copying them."""
        chosen = copy.copy(self)
        chosen._places = self._places[places]
        return chosen

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        places = self._places[places]
        return self._features[places].astype(np.float32) * self._scale[places, None]


def near_features(
    a: Vectors,
    b: Vectors,
    min_cosine: float,
    *,
    within: bool = False,
    wanted: Wanted | None = None,
    exact: int = EXACT,
    seed: int = 0,
) -> Iterator[Block]:
    """Yields blocks of (position in a, position in b, 1 - cosine) with at least this cosine.

    Above `exact` comparisons the search is clustered.

    Raises:
      ValueError: the cosine is not in (0, 1], or the vectors have different dimensions.
    """
    if not 0 < min_cosine <= 1:
        raise ValueError(f"Expected a minimum cosine above 0 and at most 1, got {min_cosine:g}.")
    if a.dim != b.dim:
        raise ValueError(f"Expected features of one encoder on both sides, got {a.dim} and {b.dim} dimensions.")
    if len(a) * len(b) <= exact:
        return near_in_all(a, b, min_cosine, within, wanted)
    return near_in_clusters(a, b, min_cosine, within, wanted, seed=seed)


def near_in_all(
    a: Vectors, b: Vectors, min_cosine: float, within: bool = False, wanted: Wanted | None = None
) -> Iterator[Block]:
    """Yields each near pair once; with `within`, b is a, and each vector is paired with later vectors only."""
    everything = np.arange(len(b))
    for start in watched(range(0, len(a), _TILE[0]), "comparing features", long=len(a) * len(b) > 1 << 31):
        rows = np.arange(start, min(start + _TILE[0], len(a)))
        # Within one set, these rows have already been compared with all earlier vectors.
        for first, second, distance in _near(a, rows, b, everything[start if within else 0 :], min_cosine, wanted):
            later = second > first if within else slice(None)
            yield first[later], second[later], distance[later]


def near_in_clusters(
    a: Vectors,
    b: Vectors,
    min_cosine: float,
    within: bool = False,
    wanted: Wanted | None = None,
    *,
    probes: int = PROBES,
    clusters: int = 0,
    seed: int = 0,
) -> Iterator[Block]:
    """Yields nearly all pairs that `near_in_all` yields; within one set some of them twice.

    Args:
      a: vectors.
      b: vectors, which are clustered.
      min_cosine: minimum cosine of a pair.
      within: True if b is a; each vector is then paired with later vectors only.
      wanted: see `pairs.Wanted`.
      probes: number of clusters in which each vector of a is searched.
      clusters: number of clusters; 0: the square root of the number of vectors.
      seed: seed of the sample that is clustered.
    """
    centres = _centres(b, clusters or max(1, round(len(b) ** 0.5)), seed)
    members = _by_cluster(_nearest(b, centres, 1), len(centres))
    visitors = _by_cluster(_nearest(a, centres, probes), len(centres))
    numbers = watched(range(len(centres)), "comparing features within clusters", long=len(a) > 1 << 16)
    for number in numbers:
        rows = visitors[number]
        columns = members[number]
        for start in range(0, len(rows), _TILE[0]):
            for first, second, distance in _near(a, rows[start : start + _TILE[0]], b, columns, min_cosine, wanted):
                if within:
                    # Each vector visits its own cluster, and so meets itself and pairs in both orders.
                    other = first != second
                    first = first[other]
                    second = second[other]
                    distance = distance[other]
                    first, second = np.minimum(first, second), np.maximum(first, second)
                yield first, second, distance


def _near(
    a: Vectors, rows: np.ndarray, b: Vectors, columns: np.ndarray, min_cosine: float, wanted: Wanted | None
) -> Iterator[Block]:
    unit = a[rows]
    for start in range(0, len(columns), _TILE[1]):
        some = columns[start : start + _TILE[1]]
        cosine = unit @ b[some].T
        block = near_block(np.subtract(1, cosine, out=cosine), 1 - min_cosine + ROUNDING, rows, some, wanted)
        if len(block[0]):
            yield block


def _by_cluster(clusters: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns the vectors of each of `count` clusters, given the clusters of each vector, `[n, clusters]`."""
    order = np.argsort(clusters.ravel(), kind="stable")
    ends = np.searchsorted(clusters.ravel()[order], np.arange(1, count))
    return np.split(order // clusters.shape[1], ends)


def _centres(vectors: Vectors, count: int, seed: int) -> np.ndarray:
    """Returns unit centres `[count, dim]` of clusters of a sample, by spherical k-means from a random start."""
    random = np.random.default_rng(seed)
    size = min(len(vectors), _SAMPLE * count)
    sample = vectors[np.sort(random.choice(len(vectors), size, replace=False))]
    centres = sample[random.choice(size, min(count, size), replace=False)]
    for _ in watched(range(_ROUNDS), "clustering a sample of the features", long=size * count > 1 << 24):
        home = _assigned(sample, centres)
        order = np.argsort(home, kind="stable")
        filled, starts = np.unique(home[order], return_index=True)
        # An empty cluster keeps its centre.
        sums = np.add.reduceat(sample[order], starts)
        centres[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _assigned(sample: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate([np.argmax(sample[i : i + 4096] @ centres.T, axis=1) for i in range(0, len(sample), 4096)])


def _nearest(vectors: Vectors, centres: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` nearest centres of each vector, `[n, count]`, in no particular order."""
    count = min(count, len(centres))
    nearest = np.empty((len(vectors), count), np.int64)
    for start in range(0, len(vectors), 4096):
        cosine = vectors[np.arange(start, min(start + 4096, len(vectors)))] @ centres.T
        nearest[start : start + 4096] = np.argpartition(cosine, -count, axis=1)[:, -count:]
    return nearest
