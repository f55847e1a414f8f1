r"""Compares sources of images with yours before any training: near, in between or far, by an index with intervals.

    python -m tools.shift --target=folder:/data/parts --source=folder:/data/near --source="web = arrayrecord:/data/web" --html
    python -m tools.shift --target=... --source="near = folder:/data/near" --source="web = folder:/data/web" \
      --mixture="mostly near = 0.7*near + 0.3*web" --encoder=dinov2-small.safetensors

Prints which sources are near, in between and far, the table of the index with intervals, and raw distances. OUT gets
`table.md`, `shift.csv`, `shift.json`, and with --html the page `shift.html` with the nearest and the farthest images, a map,
and a profile over layers. Features are kept in OUT: a later source costs only the time for its images. Without --encoder,
an untrained network is used, which sees only texture and colour; all sentences are limited to that.
"""

import dataclasses
import functools
import itertools

from absl import flags
from rich.console import Console

from sslshift import cluster
from sslshift.command import define_cluster_flags, run_command
from sslshift.models.opening import HOW_TO_SAY
from sslshift.reporting import say
from sslshift.reporting.progress import LogLines, counting_images
from sslshift.shift.distances import DISTANCES, INDEX_DISTANCES
from sslshift.shift.index import DEFAULT_DISTANCE, FAR_ENDS, SEPARATION
from sslshift.shift.survey import SurveySettings, run_survey
from sslshift.transfer.encoders import UNTRAINED

_BESIDE = ",".join(name for name, distance in DISTANCES.items() if distance.beside)

FLAGS = flags.FLAGS
define_cluster_flags()
flags.DEFINE_string("target", None, "Your images: a URI such as folder:/data/parts.", required=True)
flags.DEFINE_multi_string("source", None, "Source to compare: 'URI' or 'NAME = URI'; may be given many times.", required=True)
flags.DEFINE_multi_string(
    "mixture", [], "A planned mixture of sources by share: 'NAME = 0.7*near + 0.3*web'; may be given many times."
)
flags.DEFINE_string(
    "encoder",
    UNTRAINED,
    "Encoder of the images: a .safetensors or .npz file of a published encoder (python -m tools.fetch_encoder), a finished "
    f"run or a saved encoder, pixels, untrained (a small conv net), or untrained:NAME. {HOW_TO_SAY}",
)
flags.DEFINE_integer("images", 2000, "Largest number of images of each source and of the target.", lower_bound=20)
flags.DEFINE_integer("image_size", 0, "Side of images in pixels; 0: the encoder's, or the target's up to 64.", 0, 4096)
flags.DEFINE_string("distance", DEFAULT_DISTANCE, f"Distance behind the index: {', '.join(INDEX_DISTANCES)}.")
flags.DEFINE_enum("far_end", SEPARATION, [*FAR_ENDS], "What an index of 1 means: complete separation, or noise.")
flags.DEFINE_string("distances", _BESIDE, "Raw distances to show beside the index, separated by commas, or none.")
flags.DEFINE_integer(
    "seed", 0, "Seed of all draws, and of an untrained network's weights.", lower_bound=0, upper_bound=(1 << 63) - 1
)
flags.DEFINE_boolean("html", False, "Also write the page OUT/shift.html.")
flags.DEFINE_string("out", "results/shift", "Folder for results and kept features.")


def main() -> None:
    console = Console(emoji=False, width=None if Console().is_terminal else 100, quiet=not cluster.is_first())
    settings = SurveySettings(**{each.name: FLAGS[each.name].value for each in dataclasses.fields(SurveySettings)})
    status = console.status("")
    lines = LogLines(console)
    numbers = itertools.count()

    def on_source(name: str) -> None:
        # A terminal shows one moving part at a time; the bar of encoded images ends here.
        status.start()
        status.update(f"measuring {name}")
        lines.show("measuring sources", next(numbers), len(settings.source) + len(settings.mixture), name)

    try:
        report = run_survey(settings, functools.partial(counting_images, console), on_source)
    finally:
        status.stop()
    if not cluster.is_first():
        return
    # Written first: whoever reads only the first lines (`| head`) has the files too. The page takes longer than the answer.
    files = report.write(html=False)
    report.show(console)
    files = report.write(html=True) if FLAGS.html else files
    say(console, f"wrote {', '.join(map(str, files))}")
    failed = len(report.found.failed)
    if failed:
        raise RuntimeError(f"{failed} of {failed + len(report.found.measured)} sources could not be measured.")


if __name__ == "__main__":
    run_command(main)
