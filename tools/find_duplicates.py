r"""Finds the duplicates of a source, or what a source shares with a test split, and writes the source without them.

    python -m tools.find_duplicates --source=folder:/data/web --out=results/web
    python -m tools.find_duplicates --source=arrayrecord:/data/web256 --by=hash --max_distance=4 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --features=web.npy --min_cosine=0.97 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --against=folder:/data/parts/test --out=results/web

Prints the numbers of images, exact and near-duplicates and effective unique images. OUT gets `pairs.csv`, `pairs.html` (look at
it: are the doubtful pairs one picture?) and `kept.parquet`, with which `URI?keep=OUT/kept.parquet` is the source without them.

Images that differ in colour alone are no duplicates. Images that are alike and have different labels are all kept and reported:
one picture with two labels has a wrong one, and two parts may differ by a scratch that no limit sees. --different_labels=first
keeps the first of such images, drop keeps none.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.curation.duplicates import (
    BY,
    DIFFERENT_LABELS,
    MAX_DISTANCE,
    MAX_DISTANCE_ALONE,
    MIN_CORRELATION,
    MIN_COSINE,
    Duplicates,
    find_duplicates,
)
from sslshift.data.curation.kept import save_kept
from sslshift.data.curation.labels import differently_labelled, label_text
from sslshift.data.curation.leaks import NEAR, SAME, find_leaks
from sslshift.data.curation.linking import NONE, Pairs
from sslshift.data.curation.page import Section, by_distance, page
from sslshift.data.curation.pairs import near_pairs_between_by_features
from sslshift.data.ranges import compare_ranges
from sslshift.data.sources import PartialSource, Source, open_source, parse_uri
from sslshift.data.sources.base import printable

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "URI of the source.", required=True)
flags.DEFINE_string("against", "", "URI of a test split: what the source shares with it is found, in place of duplicates.")
flags.DEFINE_string("out", None, "Folder to write to.", required=True)
flags.DEFINE_enum(
    "by", "pixels", BY, "What tells near-duplicates: nothing, hashes, hashes and then pixels, --features (which sets this)."
)
flags.DEFINE_integer(
    "max_distance",
    None,
    f"Bits in which perceptual hashes may differ; not given: {MAX_DISTANCE}, {MAX_DISTANCE_ALONE} with --by=hash.",
    lower_bound=0,
    upper_bound=64,
)
flags.DEFINE_float(
    "min_correlation", MIN_CORRELATION, "Of two pictures' detail with --by=pixels; for photographs 0.98 is enough."
)
flags.DEFINE_string("features", "", "A file of numpy.save with the features of the source's images, [images, dim].")
flags.DEFINE_string("against_features", "", "The same of the images of --against.")
flags.DEFINE_float("min_cosine", MIN_COSINE, "Of two images' features; depends on the encoder.")
flags.DEFINE_enum(
    "different_labels",
    "keep",
    DIFFERENT_LABELS,
    "What becomes of images that are alike but have different labels: keep all, keep the first, or drop all.",
)


def main() -> None:
    out = Path(FLAGS.out).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={FLAGS.out} is a file; name a folder.")
    if FLAGS.against and not FLAGS.features and FLAGS.by != "pixels":
        raise ValueError(f"--against compares by pixels or --features, not by {FLAGS.by}.")
    if bool(FLAGS.against_features) != bool(FLAGS.against and FLAGS.features):
        raise ValueError("--against_features goes with --against and --features: features of both sides, of one encoder.")
    source = open_source(FLAGS.source)
    out.mkdir(parents=True, exist_ok=True)
    against = open_source(FLAGS.against) if FLAGS.against else None
    lines = _leaks(source, against, out) if against else _duplicates(source, out)
    opened = {each.name: each for each in (source, against) if each}
    lines += [f"{name}: {note}" for name, each in opened.items() for note in each.notes]
    lines += compare_ranges({name: each.pixel_range for name, each in opened.items()})
    console = Console(emoji=False)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _duplicates(source: Source, out: Path) -> list[str]:
    by = "features" if FLAGS.features else FLAGS.by
    found = find_duplicates(
        source,
        by=by,
        max_distance=FLAGS.max_distance,
        min_correlation=FLAGS.min_correlation,
        features=_features(FLAGS.features) if FLAGS.features else None,
        min_cosine=FLAGS.min_cosine,
    )
    told, say = _criterion(by)
    numbers = (
        f"{found.count:,} images: {found.exact.count:,} exact duplicates, {found.near.count:,} near-duplicates ({told}), "
        f"{found.effective_unique:,} effective unique images"
    )
    mixed = [each.chosen(differently_labelled(source, each.first, source, each.second)) for each in (found.exact, found.near)]
    sections = [
        Section("Equal images with different labels", mixed[0], lambda distance: "equal"),
        Section("Near-duplicates with different labels", by_distance(mixed[1], nearest_first=True), say),
        Section("Near-duplicates, the least alike first", by_distance(found.near, nearest_first=False), say),
        Section("Not taken for duplicates, the most alike first", by_distance(found.missed, nearest_first=True), say),
        Section("Exact duplicates", found.exact, lambda distance: "equal"),
    ][0 if found.mixed.any() else 2 :]
    _write_pairs(out, [("exact", found.exact), ("near", found.near)], source, source)
    notes = _notes(source, found, *mixed)
    summary = " ".join(f"{line}." for line in (numbers, *notes))
    (out / "pairs.html").write_text(page(f"Duplicates of {source.name}", summary, sections, source, source), encoding="utf-8")
    return [f"{source.name}: {numbers}", *notes, *_keep(source, found.kept(FLAGS.different_labels), out)]


def _notes(source: Source, found: Duplicates, exact: Pairs, near: Pairs) -> list[str]:
    """Returns sentences, without their full stops, on duplicates that are perhaps none."""
    notes = []
    if found.mixed.any():
        group = np.flatnonzero(found.groups == found.groups[np.argmax(found.mixed)]).tolist()
        i = next(index for index in group if label_text(source, index))
        j = next(index for index in group if label_text(source, index) not in ("", label_text(source, i)))
        done = {"keep": "all of them are kept", "first": "the first of each group is kept", "drop": "none of them is kept"}
        groups = len(np.unique(found.groups[found.mixed]))
        notes.append(
            f"Same images, different labels: {found.mixed.sum():,} images in {groups:,} groups of duplicates that have several "
            f"labels ({exact.count:,} pairs of equal images, {near.count:,} near), for example "
            f"{source.origin(i)} ({label_text(source, i)}) and {source.origin(j)} ({label_text(source, j)}); "
            f"{done[FLAGS.different_labels]} (--different_labels={FLAGS.different_labels}; {', '.join(DIFFERENT_LABELS)})"
        )
    if source.labels is None and source.name.startswith("folder:"):
        places = np.concatenate([found.exact, found.near], axis=1)[:2].astype(int).T.tolist()
        origins = [(source.origin(i), source.origin(j)) for i, j in places]
        apart = [pair for pair in origins if Path(pair[0]).parent != Path(pair[1]).parent]
        if apart:
            notes.append(
                f"{len(apart):,} pairs of duplicates lie in different folders, for example {apart[0][0]} and {apart[0][1]}; if "
                "folders are classes, ?labels=folder in the URI keeps all images that are alike but have different labels"
            )
    if found.flat:
        notes.append(
            f"{found.flat:,} of the exact duplicates are of one colour, as white pictures on a transparent ground are when "
            "they are drawn on white"
        )
    return notes


def _leaks(source: Source, test: Source, out: Path) -> list[str]:
    told, say = _criterion("features" if FLAGS.features else "pixels")
    if FLAGS.features:
        sides = _features(FLAGS.features), _features(FLAGS.against_features)
        for side, rows, flag in ((source, sides[0], "features"), (test, sides[1], "against_features")):
            if len(rows) != len(side):
                raise ValueError(f"--{flag} has {len(rows):,} rows for the {len(side):,} images of {side.name}.")
        pairs = near_pairs_between_by_features(*sides, FLAGS.min_cosine)
        groups = [(NEAR, pairs)]
        missed = []
    else:
        distance = MAX_DISTANCE if FLAGS.max_distance is None else FLAGS.max_distance
        leaks = find_leaks(source, test, max_distance=distance, min_correlation=FLAGS.min_correlation)
        same = np.array([how == SAME for how in leaks.how], bool)
        pairs = leaks.pairs
        groups = [(how, pairs.chosen(chosen)) for how, chosen in ((SAME, same), (NEAR, ~same))]
        missed = [
            Section("Not taken for one picture, the most alike first", by_distance(leaks.missed, nearest_first=True), say)
        ]
    same, near = (dict(groups).get(how, NONE) for how in (SAME, NEAR))
    similar = f"{len(np.setdiff1d(near.second, same.second)):,}"
    also = f"{len(np.unique(same.second)):,} of {len(test):,} images of {test.name} are also among the {len(source):,} of"
    numbers = (
        f"{similar} of {len(test):,} images of {test.name} are similar to some of the {len(source):,} of {source.name} ({told})"
        if FLAGS.features
        else f"{also} {source.name}, pixel for pixel; similar to images of it without being equal: {similar} ({told})"
    )
    apart, wrong = (differently_labelled(source, each.first, test, each.second) for each in (near, same))
    if FLAGS.features:
        equal = [np.array_equal(source.image(i), test.image(j)) for i, j, _ in zip(*near.chosen(apart), strict=True)]
        apart[np.flatnonzero(apart)[equal]] = False
    # Images that only look alike and are of another class stay; copies of test images never do.
    keep = FLAGS.different_labels == "keep"
    concerned = np.union1d(same.first, near.first[~apart] if keep else near.first)
    notes = []
    if apart.any() or wrong.any():
        notes.append(
            f"Different labels on the two sides: {wrong.sum():,} pairs of the same pixels, whose images of {source.name} are "
            f"excluded, and {apart.sum():,} similar pairs, whose images are {'kept' if keep else 'excluded'} "
            f"(--different_labels={FLAGS.different_labels})"
        )
    sections = [
        Section(f"{how.capitalize()}, the least alike first", by_distance(some, nearest_first=False), say)
        for how, some in groups
    ]
    if notes:
        both = Pairs(*(np.concatenate(sides) for sides in zip(same.chosen(wrong), near.chosen(apart), strict=True)))
        sections = [Section("Different labels", both, say), *sections]
    _write_pairs(out, groups, source, test)
    title = f"{source.name} against {test.name}"
    summary = " ".join(f"{line}." for line in (numbers, *notes))
    (out / "pairs.html").write_text(page(title, summary, sections + missed, source, test), encoding="utf-8")
    return [numbers, *notes, *_keep(source, np.setdiff1d(np.arange(len(source)), concerned), out)]


def _criterion(by: str) -> tuple[str, Callable[[float], str]]:
    """What makes two images near, in words, and how a distance is told."""
    if by == "pixels":
        distance = MAX_DISTANCE if FLAGS.max_distance is None else FLAGS.max_distance
        told = f"hashes within {distance} bits, a correlation of detail of at least {FLAGS.min_correlation:g}, like colours"
        return told, lambda distance: f"likeness {1 - distance:.4f}"
    if by == "features":
        return f"a cosine of features of at least {FLAGS.min_cosine:g}", lambda distance: f"cosine {1 - distance:.4f}"
    distance = MAX_DISTANCE_ALONE if FLAGS.max_distance is None else FLAGS.max_distance
    told = f"hashes within {distance} bits, which compare brightness and no colours" if by == "hash" else "not looked for"
    return told, lambda distance: f"{distance:.0f} bits"


def _features(path: str) -> np.ndarray:
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array that numpy.save wrote: {error}") from error
    if not isinstance(features, np.ndarray):
        raise ValueError(f"{path} holds several arrays; save the one of the features with numpy.save.")
    return features


def _write_pairs(out: Path, groups: list[tuple[str, Pairs]], first: Source, second: Source) -> None:
    with open(out / "pairs.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        head = ["first", "second", "how", "distance", "first_origin", "second_origin", "first_label", "second_label"]
        writer.writerow(head)
        for how, pairs in groups:
            for i, j, distance in zip(*(side.tolist() for side in pairs), strict=True):
                sides = first.origin(i), second.origin(j), label_text(first, i), label_text(second, j)
                writer.writerow([i, j, how, f"{distance:.6g}", *sides])


def _keep(source: Source, kept: np.ndarray, out: Path) -> list[str]:
    if not len(kept):
        raise ValueError(f"Nothing of {source.name} would be left; {printable(out / 'pairs.csv')} has the pairs.")
    if isinstance(source, PartialSource):
        # A URI has one option keep: what is kept of a part is kept of the whole.
        kept = source.indices[kept]
        source = source.whole
    save_kept(out / "kept.parquet", kept, source)
    uri = parse_uri(source.name).with_options(keep=str(out / "kept.parquet"))
    return [
        f"The {len(kept):,} images that are left: {uri}",
        f"Pairs to judge by eye: {printable(out / 'pairs.html')}; all: {printable(out / 'pairs.csv')}",
    ]


if __name__ == "__main__":
    run_command(main)
