r"""Finds the duplicates of a source, or the images that it shares with a test split, and writes the source without them.

    python -m tools.find_duplicates --source=folder:/data/web --out=results/web
    python -m tools.find_duplicates --source=arrayrecord:/data/web256 --by=hash --max_distance=4 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --features=web.npy --min_cosine=0.97 --out=results/web
    python -m tools.find_duplicates --source=folder:/data/web --against=folder:/data/parts/test --out=results/web

Prints the numbers of images, of exact and near-duplicates, and of effective unique images. OUT gets `pairs.csv`, `pairs.html`
and `kept.parquet`; `URI?keep=OUT/kept.parquet` is the source without duplicates. Look at `pairs.html`, and check whether the
doubtful pairs show the same picture.

Copies that were resized, stored as JPEG or slightly brightened are found; with --also=mirrored,cropped, mirrored copies and
windows of 80% of both sides or more too. Rotated copies and added text are not; tools/README.md has measurements. Images that
differ only in colour are not duplicates. Similar images with different labels are kept and reported: one label may be wrong,
but two parts may differ by a scratch that no limit detects; --different_labels treats them otherwise.
"""

from pathlib import Path

import numpy as np
from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.curation import duplicates as limits
from sslshift.data.curation.report import SearchSettings, report
from sslshift.data.reframed import CHANGES
from sslshift.data.sources import open_source

FLAGS = flags.FLAGS
flags.DEFINE_string("source", None, "URI of the source.", required=True)
flags.DEFINE_string("against", "", "URI of a test split; finds images that the source shares with it, instead of duplicates.")
flags.DEFINE_string("out", None, "Folder to write to.", required=True)
flags.DEFINE_enum(
    "by",
    "pixels",
    limits.BY,
    "Criterion for near-duplicates: digest (none), hash, pixels (after hash), or features (set by --features).",
)
flags.DEFINE_integer(
    "max_distance",
    None,
    f"Bits that may differ between hashes; default: {limits.MAX_DISTANCE}, or {limits.MAX_DISTANCE_ALONE} with --by=hash.",
    lower_bound=0,
    upper_bound=64,
)
flags.DEFINE_float(
    "min_correlation",
    limits.MIN_CORRELATION,
    "Minimum correlation of two pictures' detail with --by=pixels; for photographs use 0.98.",
)
flags.DEFINE_list("also", [], f"Changes that --by=pixels searches for too: {', '.join(CHANGES)}.")
flags.DEFINE_string("features", "", "File of numpy.save with the features of the source's images, [images, dim].")
flags.DEFINE_string("against_features", "", "File of numpy.save with the features of the images of --against.")
flags.DEFINE_float("min_cosine", limits.MIN_COSINE, "Minimum cosine of two images' features; depends on the encoder.")
flags.DEFINE_enum(
    "different_labels",
    "keep",
    limits.DIFFERENT_LABELS,
    "Treatment of similar images with different labels: keep all, keep the first, or drop all.",
)


def main() -> None:
    out = Path(FLAGS.out).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"Expected a folder for --out, got the file {FLAGS.out}.")
    if FLAGS.against and not FLAGS.features and FLAGS.by != "pixels":
        raise ValueError(f"Expected --by=pixels or --features with --against, got --by={FLAGS.by}.")
    if bool(FLAGS.against_features) != bool(FLAGS.against and FLAGS.features):
        raise ValueError("--against_features needs --against and --features; both must come from the same encoder.")
    source = open_source(FLAGS.source)
    against = open_source(FLAGS.against) if FLAGS.against else None
    settings = SearchSettings(
        by="features" if FLAGS.features else FLAGS.by,
        max_distance=FLAGS.max_distance,
        min_correlation=FLAGS.min_correlation,
        min_cosine=FLAGS.min_cosine,
        features=_load_features(FLAGS.features),
        against_features=_load_features(FLAGS.against_features),
        different_labels=FLAGS.different_labels,
        also=tuple(FLAGS.also),
    )
    console = Console(emoji=False)
    for line in report(source, against, settings, out):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _load_features(path: str) -> np.ndarray | None:
    if not path:
        return None
    try:
        # Memory-mapped, because features of millions of images exceed the memory.
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as an array that numpy.save wrote: {error}") from error
    if not isinstance(features, np.ndarray):
        raise ValueError(f"{path} holds several arrays; save only the array of features, with numpy.save.")
    return features


if __name__ == "__main__":
    run_command(main)
