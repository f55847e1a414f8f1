r"""Imports a folder, archive or list of images into a source that opens quickly: ArrayRecord shards with a manifest.

    python -m tools.import_images --input=/data/photos --output=/data/photos256 --size=256
    python -m tools.import_images --input=/data/crawl --output=/data/crawl256     # tar shards, written by img2dataset
    python -m tools.import_images --input=parts.zip --output=parts256 --labels=folder --licence=CC-BY-4.0
    python -m tools.import_images --input=list.csv --output=list256                # columns path, label, licence, cost
    python -m tools.import_images --input=list.csv --output=list256 --labels=multi # several labels of an image: cat;dog
    python -m tools.import_images --input=/data/scans --output=scans256 --range=0..4095   # 12 bits in files of 16
    python -m tools.import_images --input=/mnt/crawl --output=/mnt/crawl256 --beam --beam_options="--runner=DirectRunner"

`arrayrecord:OUTPUT` is then a source. OUTPUT/refused.csv lists the images that were refused, with reasons. You can stop the
import at any time; the same command continues it. The format is described in sslshift/data/records/__init__.py.

Sidecar files with the name of an image, such as `a.0.json`, `a.0.txt` and `a.0.cls` for `a.0.png`, give its licence, URL,
caption and class. In a tar archive, as in WebDataset, `a.cls` also belongs to `a.0.png` if no other image's name begins with
`a.`. An image is refused if its sidecars could belong to several images, contradict each other or cannot be read. Archives that
were joined with cat are read to their end. A WARNING names archives and folders that cannot be read completely and may contain
more images.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.ranges import parse_range
from sslshift.data.records.encode import ENCODINGS, Encoding
from sslshift.data.records.importing import LABELS, Import, Result
from sslshift.data.records.outcome import describe_import
from sslshift.data.records.running import run_import, run_on_beam
from sslshift.data.records.shards import FinishedShard
from sslshift.reporting.progress import counting_images

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "input", None, "Folder (with or without archives in it), tar or zip archive, or CSV or Parquet list.", required=True
)
flags.DEFINE_string("output", None, "Folder of the new source; the same command continues an import there.", required=True)
flags.DEFINE_integer("size", 256, "Largest length in pixels of the shorter side.")
flags.DEFINE_enum("encoding", "jpeg", ENCODINGS, "Encoding of stored images; png is lossless and several times as large.")
flags.DEFINE_integer("quality", 95, "Quality of JPEG and WebP, 1 to 100.")
flags.DEFINE_enum(
    "labels",
    "none",
    LABELS,
    "folder: an image's first folder is its label; none: labels come from lists and sidecars; multi: a list has several labels "
    "per image, as in 'cat;dog'.",
)
flags.DEFINE_string("licence", "unknown", "Licence of images without a stated licence.")
flags.DEFINE_float("cost_per_image", 0.0, "Cost of an image without a stated cost, in any currency.")
flags.DEFINE_string(
    "range",
    None,
    "Values LOW..HIGH that become 0 and 255, for images of more than 8 bits; default: the smallest range of 8 to 16 bits that "
    "contains all values.",
)
flags.DEFINE_integer(
    "max_pixels",
    None,
    "Largest number of pixels of an image; default: 100 million (300 MB), or 400 million in a JPEG file, read at half size.",
    lower_bound=1,
)
flags.DEFINE_integer("shard_size", 1024, "Largest number of images in a shard.")
flags.DEFINE_integer("workers", -1, "Number of processes; -1: the number of cores, 0: only the command's own process.")
flags.DEFINE_boolean("beam", False, "Run as an Apache Beam pipeline; needs the extra 'beam'.")
flags.DEFINE_string("beam_options", "", "Options of the pipeline, separated by spaces, e.g. '--runner=DirectRunner'.")


def main() -> None:
    console = Console(emoji=False)
    encoding = Encoding(FLAGS.size, FLAGS.encoding, FLAGS.quality)
    paths = Path(FLAGS.input).expanduser(), Path(FLAGS.output).expanduser()
    stated = parse_range(FLAGS.range, "--range") if FLAGS.range else None
    facts = FLAGS.labels, FLAGS.licence, FLAGS.cost_per_image, FLAGS.shard_size
    job = Import(*paths, encoding, *facts, stated, FLAGS.max_pixels)
    result = run_on_beam(job, FLAGS.beam_options.split()) if FLAGS.beam else _run(job, console)
    for line in describe_import(result, job):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _run(job: Import, console: Console) -> Result:
    found = done = 0
    with counting_images(console, "importing images") as on_progress:

        def on_listed(containers: int, images: int) -> None:
            nonlocal found
            found = images
            on_progress(0, found)

        def on_shard(shard: FinishedShard) -> None:
            nonlocal done
            done += shard.records + len(shard.refused)
            on_progress(done, found)

        return run_import(job, workers=None if FLAGS.workers < 0 else FLAGS.workers, on_listed=on_listed, on_shard=on_shard)


if __name__ == "__main__":
    run_command(main)
