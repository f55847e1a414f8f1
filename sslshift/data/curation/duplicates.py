"""Duplicates of a source: the images that it holds more than once, exactly or nearly."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection

import numpy as np

from sslshift.data.curation.cosine import ROUNDING, Vectors, near_features
from sslshift.data.curation.hamming import HashIndex
from sslshift.data.curation.identities import Identities, looks
from sslshift.data.curation.pairs import NONE, Found, Measure, Pairs, exact_pairs, linked
from sslshift.data.likeness import correlations, details_and_contrast
from sslshift.data.perceptual_hash import FLAT, SIDE, colour_thumbnails, hash_thumbnails
from sslshift.data.reframed import CHANGES, WHOLE, ColourThumbnail, cut_out, reframed_distance, windows
from sslshift.data.sources import PartialSource, Source
from sslshift.data.threads import watched

# Criteria for near-duplicates. "digest" searches for none; "pixels" compares hashes first, and then pixels.
BY = ("digest", "hash", "pixels", "features")
# Bits in which the hashes of candidates may differ. With four bits more, a search by bands takes several times as long.
MAX_DISTANCE = 7
# Minimum correlation of the candidates' detail. `leaks` has the figures behind this limit and the one above.
MIN_CORRELATION = 0.996
# Bits in which hashes may differ if hashes decide alone. The limit is lower, since no comparison of pixels follows.
MAX_DISTANCE_ALONE = 4
MIN_COSINE = 0.95
# Minimum correlation of the detail of a mirrored or cropped image, at its best window.
MIN_REFRAMED = 0.985
# Bits in which hashes of candidates may differ, and the least correlation, at a window of the coarse grid.
_REFRAMED_BITS = 9
_REFRAMED_LIKELY = 0.85
# Images whose windows are compared in one step: their thumbnails take 60 MB.
_REFRAMED = 256
# Treatment of a group whose images have different labels: all are kept, or the first one, or none.
DIFFERENT_LABELS = ("keep", "first", "drop")


def groups_of(count: int, *pairs: Pairs) -> np.ndarray:
    """Returns the group of each of `count` images, int64 `[count]`: the index of the group's first image.

    A group holds all images that pairs connect, directly or through other images. The two ends of a chain of pairs may
    therefore be unlike each other; a strict limit keeps such chains short.

    Example:
      >>> groups_of(5, Pairs(np.array([1, 2]), np.array([2, 4]), np.zeros(2))).tolist()
      [0, 1, 1, 3, 1]
    """
    # Imported here, since a study finds leaks without groups.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = (np.concatenate([np.zeros(0, np.int64), *(pair[side] for pair in pairs)]) for side in (0, 1))
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, leader = np.unique(label, return_index=True)
    return leader[label].astype(np.int64)


def effective_unique(groups: np.ndarray) -> int:
    """Returns the effective number of unique images: N less its near-duplicates, which is the number of groups."""
    return len(representatives(groups))


def representatives(groups: np.ndarray) -> np.ndarray:
    """Returns the indices of the first image of each group, int64, in the source's order."""
    return np.flatnonzero(groups == np.arange(len(groups)))


def mixed_groups(groups: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    """Returns which images are in a group whose images have different labels, bool `[n]`.

    Args:
      groups: group of each image, int64 `[n]`; see `groups_of`.
      labels: labels of the source: `[n]`, where a negative number means a missing label; or 0/1 `[n, classes]`; or None.

    Example:
      >>> mixed_groups(np.array([0, 0, 2, 2, 2]), np.array([7, 7, 7, 8, -1])).tolist()
      [False, False, True, True, True]
    """
    if labels is None:
        return np.zeros(len(groups), bool)
    if labels.ndim == 2:
        # Images with the same set of classes get the same number.
        labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    # A missing label contradicts no other label.
    known = np.flatnonzero(labels >= 0)
    last = np.iinfo(np.int64).max
    least = np.full(len(groups), last)
    greatest = np.full(len(groups), -1)
    np.minimum.at(least, groups[known], labels[known])
    np.maximum.at(greatest, groups[known], labels[known])
    return (least < greatest)[groups]


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Result of a search for duplicates.

    Attributes:
      count: N, the number of images examined.
      exact: every image that is equal to an earlier one, paired with the first such image.
      near: pairs that link the near-duplicates among the other images.
      missed: the nearest pairs that were not near enough, so that a person can check the limit.
      labels: labels of the source, or None.
      flat: number of exact duplicates that show one colour only. White drawings on a transparent background become such
        images, since transparent pixels become white.
    """

    count: int
    exact: Pairs
    near: Pairs
    missed: Pairs
    labels: np.ndarray | None = None
    flat: int = 0

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Group of each image, int64 `[count]`: the index of the group's first image."""
        return groups_of(self.count, self.exact, self.near)

    @property
    def effective_unique(self) -> int:
        """N less its duplicates, including those with different labels."""
        return effective_unique(self.groups)

    @functools.cached_property
    def mixed(self) -> np.ndarray:
        """Images in groups whose images have different labels, bool `[count]`."""
        return mixed_groups(self.groups, self.labels)

    @property
    def representatives(self) -> np.ndarray:
        """First image of each group, in the source's order."""
        return representatives(self.groups)

    def kept(self, different_labels: str = "keep") -> np.ndarray:
        """Returns the images that remain without duplicates, in the source's order.

        Args:
          different_labels: treatment of a group whose images have different labels: "keep" keeps all of its images, "first"
            keeps the first image, and "drop" keeps none. If the images show one picture, one of the labels is wrong; if they
            only look alike, all labels can be right.

        Raises:
          ValueError: `different_labels` is not one of these values.
        """
        if different_labels not in DIFFERENT_LABELS:
            raise ValueError(f"Expected one of {', '.join(DIFFERENT_LABELS)} for different_labels, got {different_labels!r}.")
        if different_labels == "first":
            return self.representatives
        thinned = np.setdiff1d(self.representatives, np.flatnonzero(self.mixed))
        return np.union1d(thinned, np.flatnonzero(self.mixed)) if different_labels == "keep" else thinned


def find_duplicates(
    source: Source,
    *,
    by: str = "pixels",
    max_distance: int | None = None,
    min_correlation: float = MIN_CORRELATION,
    features: np.ndarray | None = None,
    min_cosine: float = MIN_COSINE,
    also: Collection[str] = (),
) -> Duplicates:
    """Finds the exact and the near-duplicates of a source.

    Exact duplicates have equal digests; near-duplicates are searched among the remaining images. In the 20,000 bundled clothes
    the search finds 6 pairs in half a second, and hashes alone would report 16% of the clothes.

    Images that differ in colour alone are not duplicates (`likeness.colour_differences`), except with "hash", which compares
    brightness alone. A chain of near-duplicates could end in another colour, so groups are divided until every image is near to
    the first image of its group. Differences below the limits are not detected: two machine parts that differ only in a scratch
    can be reported as duplicates. Open the source with its labels if it has any: images with different labels are kept, see
    `Duplicates.kept`.

    Args:
      source: the source, which is read once, in threads. If digests and hashes are stored with it, only candidates are read;
        with "digest" or "hash", no image is read.
      by: "digest": exact duplicates only; "hash": perceptual hashes decide alone, which suits photographs; "pixels": hashes
        find candidates and the correlation of their detail decides; "features": cosines of the given features decide.
      max_distance: bits in which hashes may differ; None: 4 if hashes decide alone, 7 if pixels decide.
      min_correlation: minimum correlation of the detail, at most 1; `leaks` has measurements of its effect.
      features: `[len(source), dim]` from any encoder, for by="features".
      min_cosine: minimum cosine of two images' features, which depends on the encoder: look at pairs before you rely on it.
      also: changes to search for too, of `reframed.CHANGES`, for by="pixels"; all images are then read.

    Raises:
      ValueError: an argument is out of its range, or the features do not belong to this source.
      BrokenImageError: an image cannot be read.

    References:
      Lee et al., `Deduplicating Training Data Makes Language Models Better <https://arxiv.org/abs/2107.06499>`_, 2022 (exact
      and near-duplicates are treated alike); Abbas et al., `SemDeDup <https://arxiv.org/abs/2303.09540>`_, 2023 (features)
    """
    _require_known(by, also)
    require_correlation(min_correlation)
    vectors = _vectors(features, source) if by == "features" else None
    # Near-duplicates are searched among one image of each group of equal images: further copies of an image cost nothing.
    identities = Identities(source)
    exact = exact_pairs(identities.digests)
    unique = np.setdiff1d(np.arange(len(source)), exact.second)
    if by == "digest":
        found = Found(NONE, NONE)
    elif vectors:
        found = _by_features(vectors.among(unique), min_cosine)
    elif by == "hash":
        found = _by_hash(identities.hashes[unique], MAX_DISTANCE_ALONE if max_distance is None else max_distance)
    else:
        found = _by_pixels(identities, unique, MAX_DISTANCE if max_distance is None else max_distance, min_correlation)
    # The search numbered the images of `unique`; results number those of the source.
    near, missed = (Pairs(unique[pairs.first], unique[pairs.second], pairs.distance) for pairs in found)
    near = _with_reframed(near, source, unique, also, min_correlation)
    flat = int((identities.hashes[exact.second] == FLAT).sum())
    return Duplicates(len(source), exact, near, missed, source.labels, flat)


def deduplicated(source: Source, *, different_labels: str = "keep", **how) -> Source:
    """Returns the source with the first image of each group of duplicates.

    Args:
      source: any source.
      different_labels: treatment of groups whose images have different labels, see `Duplicates.kept`.
      **how: arguments of `find_duplicates`.

    Raises:
      ValueError: `find_duplicates` raises it, or no image would remain.
    """
    kept = find_duplicates(source, **how).kept(different_labels)
    if not len(kept):
        raise ValueError(
            f"No image of {source.name} would remain: every image has a duplicate with another label. Expected "
            "different_labels='keep' or 'first' for such a source."
        )
    # A `PartialSource` with all images would have another fingerprint than the source.
    return source if len(kept) == len(source) else PartialSource(source, kept)


def _require_known(by: str, also: Collection[str]) -> None:
    if by not in BY:
        raise ValueError(f"Expected one of {', '.join(BY)} for by, got {by!r}.")
    unknown = next((each for each in also if each not in CHANGES), None)
    if unknown is not None:
        raise ValueError(f"Expected some of {', '.join(CHANGES)} for also, got {unknown!r}.")
    if also and by != "pixels":
        raise ValueError(f"Expected by='pixels' to search for {' and '.join(also)} images, got {by!r}.")


def require_correlation(value: float) -> None:
    """Raises ValueError unless the value is a possible minimum correlation."""
    if not 0 < value <= 1:
        raise ValueError(f"Expected a minimum correlation above 0 and at most 1, got {value:g}.")


def _vectors(features: np.ndarray | None, source: Source) -> Vectors:
    if features is None:
        raise ValueError("Expected features, one row per image, to find duplicates by features; got none.")
    vectors = Vectors(features)
    if len(vectors) != len(source):
        raise ValueError(f"{source.name} has {len(source):,} images, but there are {len(vectors):,} rows of features.")
    return vectors


def _by_features(vectors: Vectors, min_cosine: float) -> Found:
    search = functools.partial(near_features, vectors, vectors, min_cosine, within=True)
    return linked(len(vectors), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING)


def _by_hash(hashes: np.ndarray, max_distance: int) -> Found:
    index = HashIndex(hashes)
    # The search goes two bits beyond the limit, to find pairs that narrowly miss it.
    beyond = min(max_distance + 2, 64)
    return linked(len(hashes), lambda wanted: index.near_itself(beyond, wanted), max_distance)


def _by_pixels(identities: Identities, unique: np.ndarray, max_distance: int, min_correlation: float) -> Found:
    index = HashIndex(identities.hashes[unique])
    limit = 1 - min_correlation

    def unlikeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return identities.unlikeness(unique[first], unique[second], limit)

    found = linked(len(unique), lambda wanted: index.near_itself(max_distance, wanted), limit, unlikeness)
    groups = groups_of(len(unique), found.pairs)
    members = np.flatnonzero(groups != np.arange(len(unique)))
    other = identities.colour_differences(unique[groups[members]], unique[members]) > 0
    drifted = np.unique(groups[members[other]])
    return found._replace(pairs=_without_drift(found.pairs, groups, drifted, limit, unlikeness))


def _with_reframed(near: Pairs, source: Source, unique: np.ndarray, also: Collection[str], min_correlation: float) -> Pairs:
    """Returns the pairs, and those of mirrored and cropped images among the images `unique` of a source."""
    if not also:
        return near
    gray = np.zeros((len(unique), SIDE, SIDE), np.float16)
    done = 0
    for block in looks(source, unique, shown=True):
        gray[done : done + len(block.indices)] = block.gray
        done += len(block.indices)

    def look(place: int) -> ColourThumbnail:
        image = source.image(int(unique[place]))
        thumbnail, chroma = colour_thumbnails(image[None])
        return ColourThumbnail(thumbnail[0], np.zeros((2, SIDE, SIDE), np.float32) if chroma is None else chroma[0])

    found = reframed_pairs(gray, look, also, min_correlation)
    pairs = [
        np.concatenate(sides) for sides in zip(near, (unique[found.first], unique[found.second], found.distance), strict=True)
    ]
    order = np.lexsort(pairs[1::-1])
    return Pairs(*(side[order] for side in pairs))


def reframed_pairs(
    gray: np.ndarray, look: Callable[[int], ColourThumbnail], also: Collection[str], min_correlation: float = MIN_CORRELATION
) -> Pairs:
    """Returns pairs of images of which one is the other mirrored, or a window of the other.

    Args:
      gray: thumbnails `[n, 32, 32]`.
      look: returns an image's thumbnail with its chroma, for candidates.
      also: changes to search for, of `reframed.CHANGES`.
      min_correlation: minimum correlation of the detail of a mirrored image that is whole.
    """
    look = functools.lru_cache(maxsize=1024)(look)
    grid = windows() if "cropped" in also else windows()[:1]
    hashes = np.concatenate([hash_thumbnails(gray[i : i + 4096].astype(np.float32)) for i in range(0, len(gray), 4096)])
    index = HashIndex(hashes)
    found: dict[tuple[int, int], float] = {}
    places = watched(range(0, len(gray), _REFRAMED), "comparing with mirrored and cropped images", long=len(gray) > 2000)
    # The first window is the whole picture, which is another picture only if it is mirrored.
    ways = [(grid[1:], False)] if len(grid) > 1 else []
    ways += [(grid, True)] if "mirrored" in also else []
    for start, (own, flipped) in itertools.product(places, ways):
        block = gray[start : start + _REFRAMED].astype(np.float32)
        variants = cut_out(block[..., ::-1] if flipped else block, own).reshape(-1, SIDE, SIDE)
        details, _ = details_and_contrast(variants)
        best: dict[tuple[int, int], tuple[float, int]] = {}
        for row, other, _ in index.near(hash_thumbnails(variants), _REFRAMED_BITS):
            whole = start + row // len(own)
            theirs, _ = details_and_contrast(gray[other].astype(np.float32))
            likely = correlations(details[row], theirs)
            for i, j, window, value in zip(whole, other, row % len(own), likely, strict=True):
                if i != j and value >= _REFRAMED_LIKELY and value > best.get((i, j), (0, 0))[0]:
                    best[i, j] = (value, window)
        for (i, j), (_, window) in best.items():
            pair = (int(min(i, j)), int(max(i, j)))
            if pair in found:
                continue
            whole = look(int(i)).mirrored if flipped else look(int(i))
            distance, best_window = reframed_distance(whole, look(int(j)), own[window], 1 - MIN_REFRAMED)
            # A mirrored picture that is whole is compared as strictly as a copy, and an unchanged one was compared before.
            least = MIN_REFRAMED if best_window.size <= WHOLE else min_correlation if flipped else np.inf
            if distance <= 1 - least:
                found[pair] = distance
    first, second = np.array(sorted(found), np.int64).reshape(-1, 2).T
    return Pairs(first, second, np.array([found[pair] for pair in sorted(found)]))


def _without_drift(pairs: Pairs, groups: np.ndarray, drifted: np.ndarray, limit: float, unlikeness: Measure) -> Pairs:
    """Returns pairs that divide the drifted groups into smaller groups, in which every image is near to the first image.

    Otherwise a red picture would be linked to a blue one through a series of similar shades, and only one picture of the series
    would be kept.
    """
    if not len(drifted):
        return pairs
    others = ~np.isin(groups[pairs.first], drifted)
    parts = [Pairs(*(side[others] for side in pairs))]
    for group in drifted.tolist():
        # The first image forms a group with all images near to it; the first remaining image forms the next group, and so on.
        left = np.flatnonzero(groups == group)
        while len(left) > 1:
            first = np.full(len(left) - 1, left[0])
            rest = left[1:]
            distance = unlikeness(first, rest)
            near = distance <= limit
            parts.append(Pairs(first[near], rest[near], distance[near]))
            left = rest[~near]
    joined = Pairs(*(np.concatenate(sides) for sides in zip(*parts, strict=True)))
    order = np.lexsort((joined.second, joined.first))
    return Pairs(*(side[order] for side in joined))
