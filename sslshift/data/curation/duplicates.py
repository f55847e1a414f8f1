"""The duplicates of a source: which of its images it holds more than once, or nearly."""

import dataclasses
import functools

import numpy as np

from sslshift.data.curation.cosine import ROUNDING, Vectors, near_features
from sslshift.data.curation.groups import effective_unique, groups_of, representatives
from sslshift.data.curation.hamming import HashIndex
from sslshift.data.curation.identities import Identities
from sslshift.data.curation.labels import mixed_groups
from sslshift.data.curation.linking import NONE, Found, Measure, Pairs, linked
from sslshift.data.curation.pairs import exact_pairs
from sslshift.data.curation.perceptual_hash import FLAT
from sslshift.data.sources import PartialSource, Source

# What tells near-duplicates: nothing, hashes alone, hashes and then pixels, features.
BY = ("digest", "hash", "pixels", "features")
# Bits in which hashes of candidates may differ (four more would make a search by bands several times as long, see `hamming`),
# and the correlation of their detail that decides. `leaks` has the figures behind both.
MAX_DISTANCE = 7
MIN_CORRELATION = 0.996
# Of hashes that decide alone.
MAX_DISTANCE_ALONE = 4
MIN_COSINE = 0.95
# What becomes of a group whose images have different labels: all are kept, or its first, or none.
DIFFERENT_LABELS = ("keep", "first", "drop")


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """What a search for duplicates found.

    Attributes:
      count: N, the images looked at.
      exact: every image that is equal to an earlier one, with the first such.
      near: pairs that link the near-duplicates among the others.
      missed: the nearest pairs that were not near enough, for a person to judge the limit.
      labels: of the source, or None.
      flat: how many of the exact duplicates are of one colour, as white pictures on a transparent ground become on white.
    """

    count: int
    exact: Pairs
    near: Pairs
    missed: Pairs
    labels: np.ndarray | None = None
    flat: int = 0

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The group of each image, int64 `[count]`: the index of its first image."""
        return groups_of(self.count, self.exact, self.near)

    @property
    def effective_unique(self) -> int:
        """N less its duplicates, whatever their labels are."""
        return effective_unique(self.groups)

    @functools.cached_property
    def mixed(self) -> np.ndarray:
        """The images in groups whose images have different labels, bool `[count]`."""
        return mixed_groups(self.groups, self.labels)

    @property
    def representatives(self) -> np.ndarray:
        """The first image of each group, in the source's order."""
        return representatives(self.groups)

    def kept(self, different_labels: str = "keep") -> np.ndarray:
        """Returns the images that are left without duplicates, in the source's order.

        Args:
          different_labels: what becomes of a group whose images have different labels, one of which must be wrong if they are
            one picture, and none if they only look alike: "keep" all of its images, keep the "first", or "drop" all.

        Raises:
          ValueError: it is none of these.
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
) -> Duplicates:
    """Finds the exact and the near-duplicates of a source.

    Exact ones have equal digests; near ones are searched among the first of each. Of 20,000 bundled clothes, 12 are found to
    be 6 pictures in half a second; of the digits, none. Hashes alone would hold 16% of the clothes for duplicates.

    Images that differ in colour alone are no duplicates (`likeness.colour_differences`), except by "hash", which compares
    brightness alone. Where near-duplicates of near-duplicates have drifted to another colour, all images of a group are near to
    its first. Differences below the limits are not seen, and a scratch can be all that tells two parts apart. Give the source
    its labels if there are any: images of different labels are kept, see `Duplicates.kept`.

    Args:
      source: read once, in threads. Where digests and hashes are stored with it, only candidates are read, and none by
        "digest" or "hash".
      by: "digest": exact ones only; "hash": perceptual hashes decide alone, which is for photographs; "pixels": hashes find
        candidates and the correlation of their detail decides; "features": cosines of given features decide.
      max_distance: bits in which hashes may differ; None: 4 where they decide alone, 7 where pixels do.
      min_correlation: of the detail of the same picture, at most 1; see `leaks` for what it finds. Cut pictures are not looked
        for here.
      features: `[len(source), dim]` by any encoder, for by="features".
      min_cosine: of two images' features. What it means depends on the encoder: look at pairs before trusting it.

    Raises:
      ValueError: an argument is out of its range, or the features are not those of this source.
      BrokenImageError: an image cannot be read.

    References:
      Lee et al., `Deduplicating Training Data Makes Language Models Better <https://arxiv.org/abs/2107.06499>`_, 2022 (near
      ones count as exact ones do); Abbas et al., `SemDeDup <https://arxiv.org/abs/2303.09540>`_, 2023 (features)
    """
    if by not in BY:
        raise ValueError(f"Duplicates are told by {', '.join(BY)}, not by {by!r}.")
    require_correlation(min_correlation)
    vectors = _vectors(features, source) if by == "features" else None
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
    near, missed = (Pairs(unique[pairs.first], unique[pairs.second], pairs.distance) for pairs in found)
    flat = int((identities.hashes[exact.second] == FLAT).sum())
    return Duplicates(len(source), exact, near, missed, source.labels, flat)


def deduplicated(source: Source, *, different_labels: str = "keep", **how) -> Source:
    """Returns the source with the first image of each group of duplicates.

    Args:
      source: of images.
      different_labels: what becomes of groups whose images have different labels, see `Duplicates.kept`.
      **how: arguments of `find_duplicates`.

    Raises:
      ValueError: as `find_duplicates`, or nothing would be left.
    """
    kept = find_duplicates(source, **how).kept(different_labels)
    if not len(kept):
        raise ValueError(f"Nothing of {source.name} would be left without images of different labels that are alike.")
    return source if len(kept) == len(source) else PartialSource(source, kept)


def require_correlation(value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"A least correlation lies above 0 and is at most 1, not {value:g}.")


def _vectors(features: np.ndarray | None, source: Source) -> Vectors:
    if features is None:
        raise ValueError("Duplicates by features need features, one row per image.")
    vectors = Vectors(features)
    if len(vectors) != len(source):
        raise ValueError(f"{source.name} has {len(source):,} images, but there are {len(vectors):,} rows of features.")
    return vectors


def _by_features(vectors: Vectors, min_cosine: float) -> Found:
    search = functools.partial(near_features, vectors, vectors, min_cosine, within=True)
    return linked(len(vectors), lambda wanted: search(wanted=wanted), 1 - min_cosine + ROUNDING)


def _by_hash(hashes: np.ndarray, max_distance: int) -> Found:
    index = HashIndex(hashes)
    # Two bits more than asked for, to show what is missed.
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


def _without_drift(pairs: Pairs, groups: np.ndarray, drifted: np.ndarray, limit: float, unlikeness: Measure) -> Pairs:
    """Returns pairs that make of the drifted groups smaller ones, whose images are all near to their first.

    Through shades that are alike one by one, a red picture would be linked to a blue one, and one of all would be kept.
    """
    if not len(drifted):
        return pairs
    others = ~np.isin(groups[pairs.first], drifted)
    parts = [Pairs(*(side[others] for side in pairs))]
    for group in drifted.tolist():
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
