r"""Evaluates finished encoders on labelled images: accuracies with intervals, and significant differences between encoders.

    python -m tools.evaluate --run=results/quickstart --task="folder:/data/parts"
    python -m tools.evaluate --run=dinov2-small.safetensors --task="digits = bundled:mnist; test=bundled:mnist/test"
    python -m tools.evaluate --run=results/quickstart --task=... --task=... --evaluations=knn,linear,few_shot,finetune

--run names the folder of a finished run, the folder of a study (for all its finished runs), or the file of an encoder, ours or
published (`python -m tools.fetch_encoder`). Runs that differ only by their seed share one line. Hyperparameters are chosen on
validation images, and the test split is scored once. Intervals cover seeds and test images, and differences are computed on the
same test images. OUT gets `scores.csv`, `comparisons.csv`, `table.md` and the predictions. Features are cached there, and the
same command continues where it stopped.
"""

import functools
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslshift import cluster
from sslshift.command import define_cluster_flags, run_command
from sslshift.models import FEATURES
from sslshift.models.opening import HOW_TO_SAY
from sslshift.reporting.progress import counting_images
from sslshift.transfer.matrix_report import MatrixReport, MatrixSettings, run_matrix
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import DEFAULT, EVALUATIONS

FLAGS = flags.FLAGS
define_cluster_flags()
flags.DEFINE_multi_string(
    "run",
    None,
    "Folder of a finished run or of a whole study, or a file of an encoder, ours or published; may be given many times. "
    f"{HOW_TO_SAY}",
    required=True,
)
flags.DEFINE_multi_string(
    "task",
    None,
    "Labelled images: 'NAME = URI; test=URI; validation=URI; metric=NAME; labelled=N', where only the URI is required; a "
    "folder: has class folders, or train, val and test folders with class folders. May be given many times. Metrics: "
    f"{', '.join(METRICS)}.",
    required=True,
)
flags.DEFINE_string("evaluations", DEFAULT, f"Evaluations of each encoder: {', '.join(EVALUATIONS)}.")
flags.DEFINE_string("evaluation_options", "", "Settings, e.g. 'few_shot.draws=10; finetune.epochs=20; knn.neighbours=10,20'.")
flags.DEFINE_string("features", "pooled", f"Features to evaluate: {', '.join(f'{k} ({v})' for k, v in FEATURES.items())}.")
flags.DEFINE_integer(
    "image_size", 0, "Side in pixels to which images are resized; 0: the side of each encoder's training images.", lower_bound=0
)
flags.DEFINE_boolean(
    "floors", True, "Also evaluate raw pixels, and untrained encoders of the same architecture, one for each seed."
)
flags.DEFINE_string("out", "results/evaluate", "Folder for results, predictions and cached features.")


def main() -> None:
    console = Console(emoji=False, width=None if Console().is_terminal else 160, quiet=not cluster.is_first())
    say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
    names = ("run", "task", "evaluations", "evaluation_options", "image_size", "floors", "out")
    # Without --features, an encoder is evaluated with the features with which it was opened.
    features = None if FLAGS["features"].using_default_value else FLAGS.features
    settings = MatrixSettings(**{name: FLAGS[name].value for name in names}, features=features)
    report = run_matrix(settings, functools.partial(counting_images, console), say)
    if not cluster.is_first():
        return
    # Written first: whoever reads only the first lines (`| head`) has the files too.
    files = report.write(Path(FLAGS.out).expanduser())
    console.print(_shown(report))
    for line in [*report.notes, *report.sentences]:
        say(f"- {line}")
    say(f"wrote {', '.join(map(str, files))}")


def _shown(report: MatrixReport) -> Table:
    table = Table(*report.head, box=None, pad_edge=False)
    for line in report.lines:
        # Text objects, because rich would read square brackets in plain strings as markup.
        table.add_row(*map(Text, line))
    return table


if __name__ == "__main__":
    run_command(main)
