r"""Finds the duplicates of a source, or what a source shares with a test split, and writes the source without them.

    python -m tools.find_duplicates --source=folder:/data/web --out=results/web
    python -m tools.find_duplicates --source=arrayrecord:/data/web256 --by=hash --max_distance=4 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --features=web.npy --min_cosine=0.97 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --against=folder:/data/parts/test --out=results/web

Prints the numbers of images, exact and near-duplicates and effective unique images. OUT gets `pairs.csv`, `pairs.html` (look at
it: are the doubtful pairs one picture?) and `kept.parquet`, with which `URI?keep=OUT/kept.parquet` is the source without them.
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
    MAX_DISTANCE,
    MAX_DISTANCE_ALONE,
    MIN_CORRELATION,
    MIN_COSINE,
    find_duplicates,
)
from sslshift.data.curation.kept import save_kept
from sslshift.data.curation.leaks import NEAR, SAME, find_leaks
from sslshift.data.curation.linking import Pairs
from sslshift.data.curation.page import Section, by_distance, page
from sslshift.data.curation.pairs import near_pairs_between_by_features
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
    lines = _leaks(source, open_source(FLAGS.against), out) if FLAGS.against else _duplicates(source, out)
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
    sections = [
        Section("Near-duplicates, the least alike first", by_distance(found.near, nearest_first=False), say),
        Section("Not taken for duplicates, the most alike first", by_distance(found.missed, nearest_first=True), say),
        Section("Exact duplicates", found.exact, lambda distance: "equal"),
    ]
    _write_pairs(out, [("exact", found.exact), ("near", found.near)], source, source)
    (out / "pairs.html").write_text(page(f"Duplicates of {source.name}", numbers, sections, source, source), encoding="utf-8")
    return [f"{source.name}: {numbers}", *_keep(source, found.representatives, out)]


def _leaks(source: Source, test: Source, out: Path) -> list[str]:
    told, say = _criterion("features" if FLAGS.features else "pixels")
    if FLAGS.features:
        sides = _features(FLAGS.features), _features(FLAGS.against_features)
        for side, rows, flag in ((source, sides[0], "features"), (test, sides[1], "against_features")):
            if len(rows) != len(side):
                raise ValueError(f"--{flag} has {len(rows):,} rows for the {len(side):,} images of {side.name}.")
        pairs = near_pairs_between_by_features(*sides, FLAGS.min_cosine)
        groups, missed = [(NEAR, pairs)], []
    else:
        distance = MAX_DISTANCE if FLAGS.max_distance is None else FLAGS.max_distance
        leaks = find_leaks(source, test, max_distance=distance, min_correlation=FLAGS.min_correlation)
        same = np.array([how == SAME for how in leaks.how], bool)
        pairs = leaks.pairs
        groups = [(how, Pairs(*(side[chosen] for side in pairs))) for how, chosen in ((SAME, same), (NEAR, ~same))]
        missed = [
            Section("Not taken for one picture, the most alike first", by_distance(leaks.missed, nearest_first=True), say)
        ]
    concerned = np.unique(pairs.first)
    numbers = (
        f"{len(np.unique(pairs.second)):,} of {len(test):,} images of {test.name} are also among the {len(source):,} of "
        f"{source.name}, where {len(concerned):,} are concerned ({told})"
    )
    sections = [
        Section(f"{how.capitalize()}, the least alike first", by_distance(some, nearest_first=False), say)
        for how, some in groups
    ]
    _write_pairs(out, groups, source, test)
    title = f"{source.name} against {test.name}"
    (out / "pairs.html").write_text(page(title, numbers, sections + missed, source, test), encoding="utf-8")
    return [numbers, *_keep(source, np.setdiff1d(np.arange(len(source)), concerned), out)]


def _criterion(by: str) -> tuple[str, Callable[[float], str]]:
    """What makes two images near, in words, and how a distance is told."""
    if by == "pixels":
        distance = MAX_DISTANCE if FLAGS.max_distance is None else FLAGS.max_distance
        told = f"hashes within {distance} bits and a correlation of detail of at least {FLAGS.min_correlation:g}"
        return told, lambda distance: f"correlation {1 - distance:.4f}"
    if by == "features":
        return f"a cosine of features of at least {FLAGS.min_cosine:g}", lambda distance: f"cosine {1 - distance:.4f}"
    distance = MAX_DISTANCE_ALONE if FLAGS.max_distance is None else FLAGS.max_distance
    told = f"hashes within {distance} bits" if by == "hash" else "not looked for"
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
        writer.writerow(["first", "second", "how", "distance", "first_origin", "second_origin"])
        for how, pairs in groups:
            for i, j, distance in zip(*(side.tolist() for side in pairs), strict=True):
                writer.writerow([i, j, how, f"{distance:.6g}", first.origin(i), second.origin(j)])


def _keep(source: Source, kept: np.ndarray, out: Path) -> list[str]:
    if not len(kept):
        raise ValueError(f"Nothing of {source.name} would be left; {printable(out / 'pairs.csv')} has the pairs.")
    if isinstance(source, PartialSource):
        # A URI has one option keep: what is kept of a part is kept of the whole.
        kept, source = source.indices[kept], source.whole
    save_kept(out / "kept.parquet", kept, source)
    uri = parse_uri(source.name).with_options(keep=str(out / "kept.parquet"))
    return [
        f"The {len(kept):,} images that are left: {uri}",
        f"Pairs to judge by eye: {printable(out / 'pairs.html')}; all: {printable(out / 'pairs.csv')}",
    ]


if __name__ == "__main__":
    run_command(main)
