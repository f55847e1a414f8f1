r"""Lists the images and classes of every split of a well-known dataset in its published form, for an import.

    python -m tools.list_images --layout=food --input=/data/raw/food
    python -m tools.import_images --input=/data/raw/food/train.csv --output=/data/food/train --size=256

The lists are written into the input folder: train.csv, test.csv, and validation.csv if the dataset has such a split.
sslshift/data/records/published.py describes the files that the folder must contain. TensorFlow is not needed.
"""

from pathlib import Path

from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.data.records.published import LAYOUTS, write_lists
from sslshift.data.sources.base import printable

FLAGS = flags.FLAGS
flags.DEFINE_enum("layout", None, list(LAYOUTS), "Name of the dataset.", required=True)
flags.DEFINE_string("input", None, "Folder that contains the unpacked archives.", required=True)


def main() -> None:
    folder = Path(FLAGS.input).expanduser()
    for split, images in write_lists(FLAGS.layout, folder).items():
        Console(emoji=False).print(
            f"{images:,} images in {printable(folder / split)}.csv", highlight=False, soft_wrap=True, markup=False
        )


if __name__ == "__main__":
    run_command(main)
