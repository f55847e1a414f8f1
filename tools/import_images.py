r"""Imports images once, to be opened at once ever after: a folder, archive or list becomes ArrayRecord shards with a manifest.

    python -m tools.import_images --input=/data/photos --output=/data/photos256 --size=256
    python -m tools.import_images --input=/data/crawl --output=/data/crawl256     # tar shards, as img2dataset writes them
    python -m tools.import_images --input=parts.zip --output=parts256 --labels=folder --licence=CC-BY-4.0
    python -m tools.import_images --input=list.csv --output=list256                # columns path, label, licence, cost
    python -m tools.import_images --input=list.csv --output=list256 --labels=multi # several labels of an image: cat;dog
    python -m tools.import_images --input=/data/scans --output=scans256 --range=0..4095   # 12 bits in files of 16
    python -m tools.import_images --input=/mnt/crawl --output=/mnt/crawl256 --beam --beam_options="--runner=DirectRunner"

Then `arrayrecord:OUTPUT` is a source. What was refused, and why, stands in OUTPUT/refused.csv. Stop it whenever you like; the
same command goes on where it was. The format is described in sslshift/data/records/__init__.py.

Files of an image's name, `a.0.json`, `a.0.txt` and `a.0.cls` of `a.0.png`, give its licence, URL, caption and class. In a tar,
where WebDataset's rule holds, `a.cls` is of `a.0.png` too if no other image's name begins with `a.`. An image is refused where
such files could be of several images, contradict each other or cannot be read. Archives that were joined by cat are read to
their end; what cannot be read is a WARNING, since nobody knows how many images are lost.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.ranges import parse_range
from sslshift.data.records.encode import ENCODINGS, Encoding
from sslshift.data.records.importing import LABELS, Import, Result
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.records.shards import FinishedShard
from sslshift.data.sources import Uri
from sslshift.data.sources.base import printable
from sslshift.data.sources.manifest import REFUSED, Summary, read_columns
from tools.progress import counting_images

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "input", None, "Folder (with archives in it or without), tar or zip archive, or CSV or Parquet list.", required=True
)
flags.DEFINE_string("output", None, "Folder of the new source; the same command goes on there.", required=True)
flags.DEFINE_integer("size", 256, "Pixels of the shorter side, at most.")
flags.DEFINE_enum("encoding", "jpeg", ENCODINGS, "How images are stored; png keeps every pixel and is several times as large.")
flags.DEFINE_integer("quality", 95, "Of JPEG and WebP, 1 to 100.")
flags.DEFINE_enum(
    "labels",
    "none",
    LABELS,
    "folder: an image's first folder is its label; none: lists and sidecars say; multi: a list says several, as in 'cat;dog'.",
)
flags.DEFINE_string("licence", "unknown", "Licence of images of which nothing else is said.")
flags.DEFINE_float("cost_per_image", 0.0, "Cost of an image of which nothing else is said, in any currency.")
flags.DEFINE_string(
    "range",
    None,
    "Values LOW..HIGH of images of more than 8 bits that become 0 and 255; none: the least of 8 to 16 bits that holds all.",
)
flags.DEFINE_integer("shard_size", 1024, "Images in a shard, at most.")
flags.DEFINE_integer("workers", -1, "Processes; -1: as many as there are cores, 0: none but this one.")
flags.DEFINE_boolean("beam", False, "Run as an Apache Beam pipeline; needs the extra 'beam'.")
flags.DEFINE_string("beam_options", "", "Options of the pipeline, separated by spaces, e.g. '--runner=DirectRunner'.")


def main() -> None:
    console = Console(emoji=False)
    encoding = Encoding(FLAGS.size, FLAGS.encoding, FLAGS.quality)
    paths = Path(FLAGS.input).expanduser(), Path(FLAGS.output).expanduser()
    stated = parse_range(FLAGS.range, "--range") if FLAGS.range else None
    job = Import(*paths, encoding, FLAGS.labels, FLAGS.licence, FLAGS.cost_per_image, FLAGS.shard_size, stated)
    result = run_on_beam(job, FLAGS.beam_options.split()) if FLAGS.beam else _run(job, console)
    for line in told(result, job):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _run(job: Import, console: Console) -> Result:
    found = done = 0
    with counting_images(console, "importing images") as on_progress:

        def on_listed(containers: int, images: int) -> None:
            nonlocal found
            found = images
            on_progress(0, found)

        def on_shard(part: FinishedShard) -> None:
            nonlocal done
            done += part.records + len(part.refused)
            on_progress(done, found)

        return run_import(job, workers=None if FLAGS.workers < 0 else FLAGS.workers, on_listed=on_listed, on_shard=on_shard)


def told(result: Result, job: Import) -> list[str]:
    """What was imported, in lines for people."""
    summary, others, faults, earlier = result
    mebibytes = sum(shard.bytes for shard in summary.shards) / 2**20
    labelled = f", {len(summary.classes)} classes" if summary.classes else ""
    labelled += ", any number of them to an image" if summary.multi_label else ""
    lines = [
        f"{summary.records:,} images in {len(summary.shards):,} shards ({mebibytes:,.0f} MiB){labelled}, "
        f"licence: {summary.licence}. Open them as {Uri('arrayrecord', str(job.output))}"
    ]
    if earlier:
        lines.append("It was made by an earlier call; for what changed in the input since, give another output")
    lines += [f"WARNING: {path}: {reason}" for path, reason in faults[:5]]
    if len(faults) > 5:
        lines.append(f"WARNING: {len(faults) - 5:,} more archives or folders could not be read whole")
    if not summary.multi_label and not summary.classes:
        lines += _unlabelled(summary, job)
    if job.labels == "multi" and not summary.classes:
        lines.append("No labels: no image that was stored has one")
    lines += summary.notes
    if summary.refused:
        lines.append(f"{summary.refused:,} refused, each with its reason in {printable(job.output / REFUSED)}")
    if others:
        some = sorted(others.items(), key=lambda item: -item[1])[:5]
        kinds = ", ".join(f"{count:,} {extension}" for extension, count in some)
        lines.append(f"{sum(others.values()):,} files of other kinds were left alone: {kinds}")
    return lines


def _unlabelled(summary: Summary, job: Import) -> list[str]:
    """Why there are no labels, where there could be some."""
    (classes,) = read_columns(job.output, ["class"])
    if job.labels != "folder" and classes.null_count == summary.records:
        return []
    lack = "are in no class folder" if job.labels == "folder" else "have none"
    share = f"{classes.null_count:,} of {summary.records:,} images"
    return [f"No labels: {share} {lack}; the manifest's column 'class' is null for those"]


if __name__ == "__main__":
    run_command(main)
