"""Groups of near-duplicates: how many different images a source really has, and one of each."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sslshift.data.curation.linking import Pairs


def groups_of(count: int, *pairs: Pairs) -> np.ndarray:
    """The group of each of `count` images, int64 `[count]`: the index of the group's first image.

    Groups are what pairs connect, over others too: of three images the outer ones may be unlike each other. A strict limit
    keeps such chains short.

    Example:
      >>> groups_of(5, Pairs(np.array([1, 2]), np.array([2, 4]), np.zeros(2))).tolist()
      [0, 1, 1, 3, 1]
    """
    first, second = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in pairs)]) for side in (0, 1))
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, leader = np.unique(label, return_index=True)
    return leader[label].astype(np.int64)


def effective_unique(groups: np.ndarray) -> int:
    """The effective unique number of images: N less its near-duplicates, which is the number of groups."""
    return len(representatives(groups))


def representatives(groups: np.ndarray) -> np.ndarray:
    """Indices of the first image of each group, int64, in the source's order."""
    return np.flatnonzero(groups == np.arange(len(groups)))
