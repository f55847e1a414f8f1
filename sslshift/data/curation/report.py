"""Report on the duplicates of a source, or on the images that it shares with a test split, and the source without them.

`report` writes three files and returns the lines that the command prints. `pairs.csv` has all pairs. `pairs.html` shows the
doubtful pairs to a person who checks the limits. `kept.parquet` lists the images without duplicates, for `?keep=FILE`.
"""

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.curation.cosine import near_pairs_between_by_features
from sslshift.data.curation.duplicates import (
    DIFFERENT_LABELS,
    MAX_DISTANCE,
    MAX_DISTANCE_ALONE,
    MIN_CORRELATION,
    MIN_COSINE,
    Duplicates,
    find_duplicates,
)
from sslshift.data.curation.leaks import NEAR, SAME, differently_labelled, find_leaks, label_names
from sslshift.data.curation.pairs import NONE, Pairs
from sslshift.data.decode import to_image
from sslshift.data.ranges import compare_ranges
from sslshift.data.reframed import CHANGES
from sslshift.data.sources import PartialSource, Source, parse_uri
from sslshift.data.sources.base import printable
from sslshift.data.sources.kept import save_kept
from sslshift.data.sources.refusals import list_refused, refused_sentence
from sslshift.reporting import Captioned, Picture, png_uri, render_page
from sslshift.storage import write

# Number of pairs that the page shows in each section. A person has time to look at this number of pairs.
_SHOWN = 48


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """Settings of a search, with the defaults of the command.

    Attributes:
      by: criterion, one of `duplicates.BY`; only "pixels" or "features" for a comparison with a test split.
      max_distance: bits in which hashes may differ; None: the default of the criterion.
      min_correlation: minimum correlation of two pictures' detail.
      min_cosine: minimum cosine of two images' features.
      features: features of the source's images, `[images, dim]`, for by="features".
      against_features: features of the test split's images, from the same encoder.
      different_labels: treatment of images that are alike but have different labels, one of `duplicates.DIFFERENT_LABELS`.
      also: changes to search for too among the duplicates of a source, of `reframed.CHANGES`.
    """

    by: str = "pixels"
    max_distance: int | None = None
    min_correlation: float = MIN_CORRELATION
    min_cosine: float = MIN_COSINE
    features: np.ndarray | None = None
    against_features: np.ndarray | None = None
    different_labels: str = "keep"
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = next((each for each in self.also if each not in CHANGES), None)
        if unknown is not None:
            raise ValueError(f"Expected some of {', '.join(CHANGES)} for --also, got {unknown!r}.")
        if self.also and self.by != "pixels":
            raise ValueError(f"--also needs --by=pixels, got --by={self.by}.")

    @property
    def bits(self) -> int:
        """Bits in which hashes may differ."""
        default = MAX_DISTANCE_ALONE if self.by == "hash" else MAX_DISTANCE
        return default if self.max_distance is None else self.max_distance

    @property
    def criterion(self) -> str:
        """Criterion for near images in words."""
        return {
            "digest": "not searched for",
            "hash": f"hashes within {self.bits} bits, which compare brightness but not colours",
            "pixels": (
                f"hashes within {self.bits} bits, a correlation of detail of at least {self.min_correlation:g}, similar colours"
                + (f"; also {' and '.join(self.also)} images" if self.also else "")
            ),
            "features": f"a cosine of features of at least {self.min_cosine:g}",
        }[self.by]

    def describe(self, distance: float) -> str:
        """Returns a distance in words."""
        if self.by in ("pixels", "features"):
            return f"{'likeness' if self.by == 'pixels' else 'cosine'} {1 - distance:.4f}"
        return f"{distance:.0f} bits"


def report(source: Source, against: Source | None, settings: SearchSettings, out: Path) -> list[str]:
    """Searches a source for duplicates, or for images of a test split, and writes `pairs.csv`, `pairs.html`, `kept.parquet`.

    Args:
      source: the source to search.
      against: source of the test split; None: the duplicates of the source are found.
      settings: settings of the search.
      out: folder to write to; it is made if it does not exist.

    Returns:
      Lines to print: counts, images with different labels, paths of the files, and notes on the sources.

    Raises:
      ValueError: a setting is out of its range, features do not fit the source, or no image of the source would remain.
      BrokenImageError: an image cannot be read.
    """
    if against and settings.also:
        raise ValueError("--also finds duplicates within a source; remove --against or --also.")
    out.mkdir(parents=True, exist_ok=True)
    lines = _report_leaks(source, against, settings, out) if against else _report_duplicates(source, settings, out)
    # One source may be compared with itself: its notes are printed once.
    opened = {each.name: each for each in (source, against) if each}
    lines += [f"{name}: {note}" for name, each in opened.items() for note in each.notes]
    lines += [refused_sentence(name, each.refused) for name, each in opened.items() if each.refused]
    list_refused(out, {name: each.refused for name, each in opened.items()})
    return lines + compare_ranges({name: each.pixel_range for name, each in opened.items()})


def label_text(source: Source, index: int) -> str:
    """Returns an image's label for people: "cat", "cat; dog", "no class" (multi-label), or nothing if it is missing."""
    names = label_names(source, index)
    return "" if names is None else "; ".join(names) or "no class"


def _report_duplicates(source: Source, settings: SearchSettings, out: Path) -> list[str]:
    found = find_duplicates(
        source,
        by=settings.by,
        max_distance=settings.max_distance,
        min_correlation=settings.min_correlation,
        features=settings.features,
        min_cosine=settings.min_cosine,
        also=settings.also,
    )
    numbers = (
        f"{found.count:,} images: {found.exact.count:,} exact duplicates, {found.near.count:,} near-duplicates "
        f"({settings.criterion}), {found.effective_unique:,} effective unique images"
    )
    exact, near = (
        each.chosen(differently_labelled(source, each.first, source, each.second)) for each in (found.exact, found.near)
    )
    sections = [
        Section("Near-duplicates, least alike first", found.near.by_distance(nearest_first=False), settings.describe),
        Section("Not counted as duplicates, most alike first", found.missed.by_distance(nearest_first=True), settings.describe),
        Section("Exact duplicates", found.exact, _equal),
    ]
    if found.mixed.any():
        # Images with different labels come first, since one of the labels may be wrong.
        sections = [
            Section("Equal images with different labels", exact, _equal),
            Section("Near-duplicates with different labels", near.by_distance(nearest_first=True), settings.describe),
            *sections,
        ]
    notes = [*_label_notes(source, found, exact, near, settings), *_folder_notes(source, found), *_flat_notes(found)]
    # The file of images to keep is written last, by `_keep`: if it is there, the pairs are complete.
    write(out / "pairs.csv", _pairs_csv([("exact", found.exact), ("near", found.near)], source, source))
    write(out / "pairs.html", page(f"Duplicates of {source.name}", _summary(numbers, notes), sections, source, source))
    return [f"{source.name}: {numbers}", *notes, *_keep(source, found.kept(settings.different_labels), out)]


def _label_notes(source: Source, found: Duplicates, exact: Pairs, near: Pairs, settings: SearchSettings) -> list[str]:
    """Returns a sentence, without its full stop, on groups whose images have different labels, if there are any."""
    if not found.mixed.any():
        return []
    # Two images of the first such group are the example. An image without a label cannot be one of them.
    group = np.flatnonzero(found.groups == found.groups[np.argmax(found.mixed)]).tolist()
    i = next(index for index in group if label_text(source, index))
    j = next(index for index in group if label_text(source, index) not in ("", label_text(source, i)))
    done = {"keep": "all of them are kept", "first": "the first of each group is kept", "drop": "none of them is kept"}
    groups = len(np.unique(found.groups[found.mixed]))
    return [
        f"Same images, different labels: {found.mixed.sum():,} images in {groups:,} groups of duplicates that have several "
        f"labels ({exact.count:,} pairs of equal images, {near.count:,} near), for example "
        f"{source.origin(i)} ({label_text(source, i)}) and {source.origin(j)} ({label_text(source, j)}); "
        f"{done[settings.different_labels]} (--different_labels={settings.different_labels}; {', '.join(DIFFERENT_LABELS)})"
    ]


def _folder_notes(source: Source, found: Duplicates) -> list[str]:
    """Returns a sentence on duplicates in different folders, which may be classes that the URI does not mention."""
    if source.labels is not None or not source.name.startswith("folder:"):
        return []
    places = np.concatenate([found.exact, found.near], axis=1)[:2].astype(int).T.tolist()
    origins = [(source.origin(i), source.origin(j)) for i, j in places]
    apart = [pair for pair in origins if Path(pair[0]).parent != Path(pair[1]).parent]
    if not apart:
        return []
    return [
        f"{len(apart):,} pairs of duplicates are in different folders, for example {apart[0][0]} and {apart[0][1]}; if folders "
        "are classes, ?labels=folder in the URI keeps all images that are alike but have different labels"
    ]


def _flat_notes(found: Duplicates) -> list[str]:
    """Returns a sentence on exact duplicates of one colour, which may have been different drawings before decoding."""
    if not found.flat:
        return []
    return [
        f"{found.flat:,} of the exact duplicates show one colour only; white pictures on a transparent background become such "
        "images, since transparent pixels become white"
    ]


class _Shared(NamedTuple):
    """Pairs of (source, test) images: equal pairs, near pairs, and pairs just beyond the limit (None if not searched for)."""

    same: Pairs
    near: Pairs
    missed: Pairs | None


def _find_shared(source: Source, test: Source, settings: SearchSettings) -> _Shared:
    if settings.by != "features":
        leaks = find_leaks(source, test, max_distance=settings.bits, min_correlation=settings.min_correlation)
        return _Shared(leaks.same, leaks.near, leaks.missed)
    sides = ((source, settings.features, "features"), (test, settings.against_features, "against_features"))
    for side, rows, flag in sides:
        if len(rows) != len(side):
            raise ValueError(f"--{flag} has {len(rows):,} rows for the {len(side):,} images of {side.name}.")
    near = near_pairs_between_by_features(settings.features, settings.against_features, settings.min_cosine)
    return _Shared(NONE, near, None)


def _report_leaks(source: Source, test: Source, settings: SearchSettings, out: Path) -> list[str]:
    found = _find_shared(source, test, settings)
    wrong = differently_labelled(source, found.same.first, test, found.same.second)
    apart = differently_labelled(source, found.near.first, test, found.near.second)
    if settings.by == "features":
        # Features do not distinguish equal pixels from similar ones. A copy of a test image is excluded with any label.
        equal = [np.array_equal(source.image(i), test.image(j)) for i, j, _ in zip(*found.near.chosen(apart), strict=True)]
        apart[np.flatnonzero(apart)[equal]] = False
    keep = settings.different_labels == "keep"
    notes = []
    sections = [Section("Near, least alike first", found.near.by_distance(nearest_first=False), settings.describe)]
    if found.missed is not None:
        same = Section("Same pixels, least alike first", found.same.by_distance(nearest_first=False), settings.describe)
        missed = found.missed.by_distance(nearest_first=True)
        missed = Section("Not counted as one picture, most alike first", missed, settings.describe)
        sections = [same, *sections, missed]
    if apart.any() or wrong.any():
        notes.append(
            f"Different labels on the two sides: {wrong.sum():,} pairs with equal pixels, whose images of {source.name} are "
            f"excluded, and {apart.sum():,} similar pairs, whose images are {'kept' if keep else 'excluded'} "
            f"(--different_labels={settings.different_labels})"
        )
        both = zip(found.same.chosen(wrong), found.near.chosen(apart), strict=True)
        sections.insert(0, Section("Different labels", Pairs(*map(np.concatenate, both)), settings.describe))
    numbers = _count_shared(source, test, found, settings)
    write(out / "pairs.csv", _pairs_csv([(SAME, found.same), (NEAR, found.near)], source, test))
    write(out / "pairs.html", page(f"{source.name} against {test.name}", _summary(numbers, notes), sections, source, test))
    # Images that only look like test images and have another class are kept; copies of test images are always excluded.
    excluded = np.union1d(found.same.first, found.near.first[~apart] if keep else found.near.first)
    return [numbers, *notes, *_keep(source, np.setdiff1d(np.arange(len(source)), excluded), out)]


def _count_shared(source: Source, test: Source, found: _Shared, settings: SearchSettings) -> str:
    """Returns the numbers of test images that the source holds, as a sentence without its full stop."""
    # A test image with an equal and a similar counterpart counts as equal only.
    similar = f"{len(np.setdiff1d(found.near.second, found.same.second)):,}"
    if settings.by == "features":
        return (
            f"{similar} of {len(test):,} images of {test.name} are similar to at least one of the {len(source):,} images of "
            f"{source.name} ({settings.criterion})"
        )
    equal = f"{len(np.unique(found.same.second)):,}"
    return (
        f"{equal} of {len(test):,} images of {test.name} are also among the {len(source):,} images of {source.name}, pixel for "
        f"pixel; {similar} more are similar to images of {source.name} but not equal ({settings.criterion})"
    )


def _equal(distance: float) -> str:
    del distance  # Equal images have distance 0, which says nothing in bits or likeness.
    return "equal"


def _summary(numbers: str, notes: Sequence[str]) -> str:
    return " ".join(f"{line}." for line in (numbers, *notes))


def _pairs_csv(groups: Sequence[tuple[str, Pairs]], first: Source, second: Source) -> str:
    # Lines end in "\r\n", as RFC 4180 specifies and as earlier versions wrote this file.
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["first", "second", "how", "distance", "first_origin", "second_origin", "first_label", "second_label"])
    for how, pairs in groups:
        for i, j, distance in zip(*(side.tolist() for side in pairs), strict=True):
            sides = first.origin(i), second.origin(j), label_text(first, i), label_text(second, j)
            writer.writerow([i, j, how, f"{distance:.6g}", *sides])
    return text.getvalue()


def _keep(source: Source, kept: np.ndarray, out: Path) -> list[str]:
    if not len(kept):
        # Raised after the pairs are written, since they show why no image remains.
        raise ValueError(f"No image of {source.name} would remain; {printable(out / 'pairs.csv')} lists the pairs.")
    if isinstance(source, PartialSource):
        # A URI has one option `keep`, so the images that are kept of a part are written as images of the whole.
        kept = source.indices[kept]
        source = source.whole
    save_kept(out / "kept.parquet", kept, source)
    uri = parse_uri(source.name).with_options(keep=str(out / "kept.parquet"))
    return [
        f"The {len(kept):,} remaining images: {uri}",
        f"Pairs to check by eye: {printable(out / 'pairs.html')}; all pairs: {printable(out / 'pairs.csv')}",
    ]


class Section(NamedTuple):
    """Pairs under one heading of the page, in their order; `describe` returns a distance in words."""

    heading: str
    pairs: Pairs
    describe: Callable[[float], str]


class _Gallery(NamedTuple):
    """A section as the template shows it."""

    heading: str
    items: list[Captioned]


def page(title: str, summary: str, sections: Sequence[Section], first: Source, second: Source) -> str:
    """Returns an HTML page that shows pairs; `first` and `second` are the sources of the two sides, whose images are read."""
    galleries = []
    for section in sections:
        more = f", {_SHOWN} of {section.pairs.count:,}" if section.pairs.count > _SHOWN else ""
        shown = zip(*(side[:_SHOWN].tolist() for side in section.pairs), strict=True)
        items = [_captioned(first, i, second, j, section.describe(distance)) for i, j, distance in shown]
        galleries.append(_Gallery(f"{section.heading}{more}", items))
    return render_page(__package__, "page.html", title=title, summary=summary, sections=galleries)


def _captioned(first: Source, i: int, second: Source, j: int, caption: str) -> Captioned:
    sides = ((first, i), (second, j))
    labels = [label_text(source, index) or "no label" for source, index in sides if source.labels is not None]
    # Two equal labels are named once.
    caption = f"{caption}, {' and '.join(dict.fromkeys(labels))}" if labels else caption
    pictures = [Picture(png_uri(to_image(source.image(index))), source.origin(index)) for source, index in sides]
    return Captioned(pictures, [f"{i:,} and {j:,}: {caption}"])
