r"""Judges finished encoders on labelled images: how well do they serve, how sure is that, and which of them is better?

    python -m tools.evaluate --run=results/quickstart --task="folder:/data/parts"
    python -m tools.evaluate --run=dinov2-small.safetensors --task="digits = bundled:mnist; test=bundled:mnist/test"
    python -m tools.evaluate --run=results/quickstart --task=... --task=... --evaluations=knn,linear,few_shot,finetune

A run is the folder of a finished run, of a whole study (all its finished runs), or a file of an encoder: of ours, or of a
published one (`python -m tools.fetch_encoder`). Runs that differ by their seed alone are one line. Hyperparameters are chosen
on validation images, the test split is scored once, intervals are over seeds and test images, differences are taken on the same
test images. OUT gets `scores.csv`, `comparisons.csv`, `table.md` and the predictions; features are cached there, and the same
command goes on where it stopped.
"""

import csv
import functools
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslshift.command import run_command
from sslshift.data.decode import Canvas
from sslshift.data.sources import cached, open_source
from sslshift.models import ENCODER, FEATURES, PretrainedEncoder
from sslshift.models.opening import HOW_TO_SAY, how_it_was_read
from sslshift.storage import Store, write
from sslshift.study.report.text import called
from sslshift.transfer.declaration import TaskDeclaration, open_task, parse_tasks
from sslshift.transfer.features import NetworkEncoder, pixel_encoder
from sslshift.transfer.inference import Comparison, Interval
from sslshift.transfer.matrix import (
    EncoderKind,
    KindScores,
    architectures,
    by_kind,
    comparisons,
    find_encoders,
    score_table,
    untrained,
)
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import DEFAULT, EVALUATIONS, parse_evaluations
from sslshift.transfer.scores import EvaluatedEncoder, evaluate_stored
from sslshift.transfer.tasks import Task

from .progress import counting_images

_PIXELS = "raw pixels"

FLAGS = flags.FLAGS
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
    "Labelled images: 'NAME = URI; test=URI; validation=URI; metric=NAME; labelled=N', of which only the URI is needed; a "
    "folder: has class folders, or train, val and test folders of these. May be given many times. Metrics: "
    f"{', '.join(METRICS)}.",
    required=True,
)
flags.DEFINE_string("evaluations", DEFAULT, f"What encoders are judged by: {', '.join(EVALUATIONS)}.")
flags.DEFINE_string("evaluation_options", "", "Settings, e.g. 'few_shot.draws=10; finetune.epochs=20; knn.neighbours=10,20'.")
flags.DEFINE_string("features", "pooled", f"Which features are judged: {', '.join(f'{k} ({v})' for k, v in FEATURES.items())}.")
flags.DEFINE_integer(
    "image_size", 0, "Side in pixels that images are brought to; 0: what each encoder was trained on.", lower_bound=0
)
flags.DEFINE_boolean(
    "floors", True, "Also judge raw pixels, and untrained encoders of the same architecture, one for each seed."
)
flags.DEFINE_string("out", "results/evaluate", "Folder for results, predictions and cached features.")


def main() -> None:
    out = Path(FLAGS.out).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={FLAGS.out} is a file; name a folder.")
    evaluations = parse_evaluations(FLAGS.evaluations, FLAGS.evaluation_options)
    tasks = _Tasks(parse_tasks(FLAGS.task))
    console = Console(emoji=False, width=None if Console().is_terminal else 160)
    files, unfinished = find_encoders([Path(run).expanduser() for run in FLAGS.run])
    if unfinished:
        runs = f"{len(unfinished)} of {len(unfinished) + len(files)} runs"
        _say(console, f"{runs} are not finished and are left out, e.g. {unfinished[0]}")
    named = by_kind(files)
    for read in dict.fromkeys(how_it_was_read(encoder) for kind in named for _, _, encoder in kind.encoders):
        if read:
            _say(console, read)
    jobs = [
        _Job(kind.name, seed, str(file.parent if file.name == ENCODER else file), encoder)
        for kind in named
        for seed, file, encoder in kind.encoders
    ]
    floors = _floors(named) if FLAGS.floors else []
    kinds: dict[str, list[tuple[int, EvaluatedEncoder]]] = {}
    for number, job in enumerate([*jobs, *floors], 1):
        opened = tasks.at(_canvas(job.encoder))
        # The tasks' own remarks stand before the numbers; each once, though images may be brought to several sizes.
        tasks.introduce(console, opened)
        count = f"{number}/{len(jobs) + len(floors)}"
        judged = _judge(job, opened, evaluations, out, f"{count} {job.name}", console)
        kinds.setdefault(job.name, []).append((job.seed, judged))
        _say(console, f"{count} {job.name}{job.about}: {_told(judged)}")
    _show(console, out, kinds, list(dict.fromkeys(floor.name for floor in floors)), opened)


class _Job(NamedTuple):
    """An encoder to be judged; without weights, raw pixels of images like those of `like`."""

    name: str
    seed: int
    path: str
    encoder: PretrainedEncoder
    pixels: bool = False

    @property
    def about(self) -> str:
        return f" ({self.path})" if self.path else ""


def _floors(named: Sequence[EncoderKind]) -> list[_Job]:
    """Untrained encoders of every architecture, of at most three seeds, and raw pixels."""
    seeds = sorted({seed for kind in named for seed, _, _ in kind.encoders})[:3]
    jobs = [
        _Job(name, seed, f"seed {seed}", untrained(encoder, seed)) for name, encoder in architectures(named) for seed in seeds
    ]
    return [*jobs, _Job(_PIXELS, 0, "", named[0].encoders[0][2], pixels=True)]


class _Tasks:
    """The tasks on the canvas of each encoder; every source is opened once."""

    def __init__(self, declared: Sequence[TaskDeclaration]):
        self._declared = declared
        self._open = functools.cache(open_source)
        self._at: dict[Canvas, tuple[Task, ...]] = {}
        self._introduced = False

    def at(self, canvas: Canvas) -> tuple[Task, ...]:
        if canvas not in self._at:
            kept = functools.cache(lambda uri: cached(self._open(uri), canvas))
            self._at[canvas] = tuple(open_task(each, canvas, kept) for each in self._declared)
        return self._at[canvas]

    def introduce(self, console: Console, tasks: Sequence[Task]) -> None:
        for task in () if self._introduced else tasks:
            counts = [f"{len(part.indices):,} {name}" for name, part in task.splits.items()]
            _say(console, f"{task.name}: {', '.join(counts)} images, {task.classes} classes, {METRICS[task.metric].text}")
            refused = {path: why for part in task.splits.values() for path, why in part.source.refused}
            if refused:
                path, why = next(iter(refused.items()))
                _say(console, f"{task.name}: {len(refused)} files refused and not counted, e.g. {path} ({why})")
        self._introduced = True


def _canvas(encoder: PretrainedEncoder) -> Canvas:
    height, width, channels = encoder.shape
    return Canvas(FLAGS.image_size or height, FLAGS.image_size or width, channels)


def _judge(
    job: _Job, tasks: Sequence[Task], evaluations: Mapping[str, Any], out: Path, what: str, console: Console
) -> EvaluatedEncoder:
    place = out / "encoders" / ("pixels-" + "x".join(map(str, tasks[0].canvas)) if job.pixels else job.encoder.fingerprint[:16])
    # An encoder that was asked for its mean is judged by it unless the flag says otherwise.
    own = FLAGS["features"].using_default_value and not job.pixels
    with counting_images(console, what) as on_images:
        return evaluate_stored(
            Store(),
            lambda: pixel_encoder if job.pixels else NetworkEncoder(job.encoder),
            tasks,
            evaluations,
            job.encoder.features if own else FLAGS.features,
            place,
            cache=out / "features",
            on_progress=lambda _, done, total: on_images(done, total),
        )


def _told(judged: EvaluatedEncoder) -> str:
    parts = []
    for task, scores in judged.scores.items():
        values = [
            f"{called(name)} {100 * each.value:.1f}%" for name, each in scores.evaluations.items() if not math.isnan(each.value)
        ]
        parts.append(f"{task}: {', '.join(values) or 'nothing could be evaluated'}")
    return "; ".join(parts)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)


def _show(console: Console, out: Path, kinds: dict[str, KindScores], floors: Sequence[str], tasks: Sequence[Task]) -> None:
    names = [task.name for task in tasks]
    texts = {task.name: METRICS[task.metric].text for task in tasks}
    table = score_table(kinds, names)
    columns = list(dict.fromkeys(key[1:] for key in table))
    head = ["encoder", "seeds", *(f"{task}: {called(evaluation)}, {texts[task]} %" for task, evaluation in columns)]
    lines = [
        [name, str(len({seed for seed, _ in kind})), *(_percent(table.get((name, *column))) for column in columns)]
        for name, kind in kinds.items()
    ]
    shown = Table(*head, box=None, pad_edge=False)
    for line in lines:
        shown.add_row(*map(Text, line))
    console.print(shown)
    for note in _notes(kinds):
        _say(console, f"- {note}")
    compared = comparisons(kinds, floors, names)
    first = "linear" if any(key[3] == "linear" for key in compared) else next((key[3] for key in compared), "")
    for (a, b, task, evaluation), found in compared.items():
        # The others stand in the file: a screen has room for the one that is read first.
        if evaluation == first:
            _say(console, f"- {task}, {called(evaluation)}: {a} against {b}: {_difference(found, kinds[a], kinds[b])}")
    write(out / "table.md", "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines)))
    metrics = {task.name: task.metric for task in tasks}
    scores = [(*key, metrics[key[1]], *found) for key, found in table.items()]
    write(out / "scores.csv", _csv(("encoder", "task", "evaluation", "metric", "value", "low", "high"), scores))
    head = ("encoder", "against", "task", "evaluation", "difference", "low", "high", "mcnemar_p", "verdict")
    write(out / "comparisons.csv", _csv(head, [(*key, *found) for key, found in compared.items()]))
    _say(console, f"wrote {out / 'scores.csv'}, {out / 'comparisons.csv'}, {out / 'table.md'}")


def _percent(found: Interval | None) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found else ""


def _difference(found: Comparison, a: KindScores, b: KindScores) -> str:
    points = f"{100 * found.difference:+.1f} points [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    test = "" if math.isnan(found.p_value) else f", McNemar p = {found.p_value:.2g}"
    # An interval over test images alone is no statement about other seeds.
    alone = " (of these very networks; more seeds would tell of others)" if len(a) == 1 else ""
    return f"{points}{test}: {found.verdict}{alone}"


def _notes(kinds: dict[str, KindScores]) -> list[str]:
    """What the tasks have to say, each once."""
    everyone = [judged for kind in kinds.values() for _, judged in kind]
    said = [f"{task}: {note}" for judged in everyone for task, scores in judged.scores.items() for note in scores.notes]
    return list(dict.fromkeys(said))


def _csv(head: Sequence[str], lines: Sequence[Sequence]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([head, *lines])
    return out.getvalue()


if __name__ == "__main__":
    run_command(main)
