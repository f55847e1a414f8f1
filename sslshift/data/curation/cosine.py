"""All pairs of feature vectors of a high cosine, in blocks: memory does not grow with the number of pairs.

Up to some 10^5 vectors exactly, by matrix products. Beyond, clustered: spherical k-means on a sample, then every vector is
compared with those whose nearest cluster is among its own few nearest ones, so that the work grows as n^1.5. Near pairs lie in
one cluster or on both sides of a border, which is why a few are searched.

References:
  Abbas et al., `SemDeDup: Data-efficient learning at web-scale through semantic deduplication
  <https://arxiv.org/abs/2303.09540>`_, 2023
  Dhillon & Modha, `Concept Decompositions for Large Sparse Text Data using Clustering
  <https://doi.org/10.1023/A:1007612920971>`_, 2001 (spherical k-means)
"""

import copy
from collections.abc import Iterator

import numpy as np

from sslshift.data.curation.blocks import Block, Wanted, near_block
from sslshift.data.curation.threads import watched

# Above this many comparisons, those of 10^5 vectors with as many, they are clustered.
EXACT = 10**10
# Clusters in which each vector is searched. Of the pairs of a cosine of 0.95 among 10^5 vectors around 200 centres one cluster
# found 97.9%, two 99.94%, three 99.99%, in a tenth of the time of all.
PROBES = 3
# Equal vectors have a cosine of 1 but for rounding.
ROUNDING = 1e-6
_TILE = (1024, 4096)
_SAMPLE = 64
_ROUNDS = 10


class Vectors:
    """Feature vectors `[n, dim]` of any float dtype, as unit vectors in float32 where they are asked for.

    Raises:
      ValueError: not `[n, dim]`, or a value is not finite.
    """

    def __init__(self, features: np.ndarray):
        if features.ndim != 2 or features.dtype.kind not in "fiu":
            raise ValueError(f"Features must be numbers [images, dim], not {features.dtype} {list(features.shape)}.")
        self._features = features
        self.dim = features.shape[1]
        norms = [np.linalg.norm(features[i : i + 4096].astype(np.float64), axis=1) for i in range(0, len(features), 4096)]
        norm = np.concatenate([np.zeros(0), *norms])
        if not np.isfinite(norm).all():
            raise ValueError(f"Features: row {int(np.argmin(np.isfinite(norm))):,} holds values that are not finite.")
        # A vector of zeros stays one, and is like nothing.
        self._scale = (1 / np.where(norm > 0, norm, 1)).astype(np.float32)
        self._places = np.arange(len(features))

    def among(self, places: np.ndarray) -> "Vectors":
        """Only those at these places, which are not copied."""
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
    """Blocks of (place in a, place in b, 1 - cosine) of at least this cosine; clustered above `exact` comparisons.

    Raises:
      ValueError: the cosine does not lie in (0, 1], or the vectors are of different dimensions.
    """
    if not 0 < min_cosine <= 1:
        raise ValueError(f"A least cosine lies above 0 and is at most 1, not {min_cosine:g}.")
    if a.dim != b.dim:
        raise ValueError(f"Features to compare must be of one encoder: these have {a.dim} and {b.dim} dimensions.")
    if len(a) * len(b) <= exact:
        return near_in_all(a, b, min_cosine, within, wanted)
    return near_in_clusters(a, b, min_cosine, within, wanted, seed=seed)


def near_in_all(
    a: Vectors, b: Vectors, min_cosine: float, within: bool = False, wanted: Wanted | None = None
) -> Iterator[Block]:
    """Each pair once; `within`: b is a, and only pairs with a later one are wanted."""
    everything = np.arange(len(b))
    for start in watched(range(0, len(a), _TILE[0]), "comparing features", long=len(a) * len(b) > 1 << 31):
        rows = np.arange(start, min(start + _TILE[0], len(a)))
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
    """As `near_in_all`, nearly all pairs; within one set some twice.

    Args:
      a: vectors.
      b: vectors, which are clustered.
      min_cosine: of a pair.
      within: b is a, and only pairs with a later one are wanted.
      wanted: see `blocks`.
      probes: clusters in which each vector of a is searched.
      clusters: their number; 0: the square root of the number of vectors.
      seed: of the sample that is clustered.
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
    """Vectors of each of `count` clusters, from the clusters of each vector, `[n, clusters]`."""
    order = np.argsort(clusters.ravel(), kind="stable")
    ends = np.searchsorted(clusters.ravel()[order], np.arange(1, count))
    return np.split(order // clusters.shape[1], ends)


def _centres(vectors: Vectors, count: int, seed: int) -> np.ndarray:
    """Unit centres `[count, dim]` of clusters of a sample, by spherical k-means from a random start."""
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
    """Numbers of the `count` nearest centres of each vector, `[n, count]`, in no order."""
    count = min(count, len(centres))
    nearest = np.empty((len(vectors), count), np.int64)
    for start in range(0, len(vectors), 4096):
        cosine = vectors[np.arange(start, min(start + 4096, len(vectors)))] @ centres.T
        nearest[start : start + 4096] = np.argpartition(cosine, -count, axis=1)[:, -count:]
    return nearest
