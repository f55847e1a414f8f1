"""Evaluation of finished encoders on several tasks in one call, with a report of a table, notes, comparisons and files."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sslshift.data.decode import Canvas
from sslshift.data.sources import cached, open_source
from sslshift.data.sources.base import Refused
from sslshift.data.sources.refusals import list_refused, refused_sentence
from sslshift.models import ENCODER, PretrainedEncoder
from sslshift.models.opening import how_it_was_read
from sslshift.reporting import csv_text
from sslshift.storage import Store, write
from sslshift.transfer.claims import ENCODERS, Claim, Hypothesis, corrected_differences, verdict_text
from sslshift.transfer.declaration import TaskDeclaration, open_task, parse_tasks
from sslshift.transfer.features import NetworkEncoder, pixel_encoder
from sslshift.transfer.inference import Comparison, Interval
from sslshift.transfer.matrix import (
    EncoderKind,
    KindScores,
    ScoredEncoder,
    architectures,
    by_kind,
    comparisons,
    find_encoders,
    score_table,
    untrained,
)
from sslshift.transfer.matrix_leaks import MatrixLeaks, find_matrix_leaks
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import DEFAULT, Evaluation, evaluation_phrase, evaluation_title, parse_evaluations
from sslshift.transfer.scores import EvaluatedEncoder, evaluate_stored
from sslshift.transfer.tasks import Task

_PIXELS = "raw pixels"
# Seeds of untrained encoders. Few are enough, because their scores differ little.
_BASELINE_SEEDS = 3

# Context manager for the progress of one encoder; it yields a function of the number of images done and the total.
Counting = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]


@dataclass(frozen=True)
class MatrixSettings:
    """Settings of an evaluation of finished encoders, as flags give them.

    Attributes:
      run: folders of runs or studies, or files of encoders.
      task: texts of tasks, see `declaration.parse_task`.
      evaluations, evaluation_options: see `protocol.parse_evaluations`.
      features: name of the features to evaluate; None: the features with which each encoder was opened.
      image_size: side to which images are resized; 0: the side of each encoder's images.
      floors: whether raw pixels and untrained encoders are evaluated too.
      out: folder for results, predictions and cached features.
    """

    run: Sequence[str]
    task: Sequence[str]
    evaluations: str = DEFAULT
    evaluation_options: str = ""
    features: str | None = None
    image_size: int = 0
    # Not renamed to baselines, because the flag is named --floors.
    floors: bool = True
    out: str = "results/evaluate"


@dataclass(frozen=True, eq=False)
class MatrixReport:
    """Scores of kinds of encoders on tasks.

    Attributes:
      kinds: scores of the encoders of each kind, by name.
      baselines: names of the kinds that were not trained.
      tasks: the tasks.
      leaks: test images among the images that encoders were pretrained on.
    """

    kinds: Mapping[str, KindScores]
    baselines: Sequence[str]
    tasks: Sequence[Task]
    leaks: MatrixLeaks

    @functools.cached_property
    def _scores(self) -> dict[tuple[str, str, str], Interval]:
        return score_table(self.kinds, [task.name for task in self.tasks])

    @functools.cached_property
    def _comparisons(self) -> dict[tuple[str, str, str, str], Comparison]:
        return comparisons(self.kinds, self.baselines, [task.name for task in self.tasks])

    @property
    def _columns(self) -> list[tuple[str, str]]:
        """Task and evaluation of each column."""
        return list(dict.fromkeys((task, evaluation) for _, task, evaluation in self._scores))

    @property
    def head(self) -> list[str]:
        """Names of the table's columns."""
        metrics = {task.name: METRICS[task.metric].text for task in self.tasks}
        return [
            "encoder",
            "seeds",
            *(f"{task}: {evaluation_title(evaluation)}, {metrics[task]} %" for task, evaluation in self._columns),
        ]

    @property
    def lines(self) -> list[list[str]]:
        """The table's lines, one for each kind of encoder."""
        return [
            [
                name,
                str(len({each.seed for each in kind})),
                *(_percent(self._scores.get((name, *column))) for column in self._columns),
            ]
            for name, kind in self.kinds.items()
        ]

    @property
    def notes(self) -> list[str]:
        """Leaks, and notes of the tasks and evaluations, each once."""
        everyone = [each.scores for kind in self.kinds.values() for each in kind]
        notes = [f"{task}: {note}" for encoder in everyone for task, scores in encoder.scores.items() for note in scores.notes]
        return [*self.leaks.sentences, *dict.fromkeys(notes)]

    @functools.cached_property
    def _claims(self) -> dict[Hypothesis, Claim]:
        """The differences, with verdicts that are corrected for all of them."""
        return corrected_differences(
            {
                Hypothesis(task, (a, b), ENCODERS, "", evaluation): found
                for (a, b, task, evaluation), found in self._comparisons.items()
            }
        )

    @property
    def sentences(self) -> list[str]:
        """The comparisons by every evaluation; it says where their verdicts differ."""
        pairs: dict[tuple[str, tuple[str, str]], list[Claim]] = {}
        for name, claim in self._claims.items():
            pairs.setdefault((name.task, name.learner), []).append(claim)
        lines = []
        for (task, (a, b)), claims in pairs.items():
            disagree = ", where evaluations disagree" if len({each.verdict for each in claims}) > 1 else ""
            parts = [f"by {evaluation_phrase(each.hypothesis.evaluation)} {self._difference(each)}" for each in claims]
            # An interval over test images does not cover other training seeds.
            alone = " (for these networks only; other seeds may differ)" if len(self.kinds[a]) == 1 else ""
            lines.append(f"{task}: {a} against {b}{disagree}: {'; '.join(parts)}{alone}")
        count = len(self._claims)
        return [*lines, f"Verdicts are corrected for all {count:,} comparisons (Holm)."] if count > 1 else lines

    def _difference(self, claim: Claim) -> str:
        task, (a, b), _, _, evaluation = claim.hypothesis
        mcnemar = self._comparisons[a, b, task, evaluation].p_value
        test = "" if math.isnan(mcnemar) else f", McNemar p = {mcnemar:.2g}"
        ends = f"[{100 * claim.low:+.1f}, {100 * claim.high:+.1f}]"
        return f"{100 * claim.value:+.1f} points {ends}{test}: {verdict_text(claim)}"

    def write(self, out: Path) -> list[Path]:
        """Writes `scores.csv`, `comparisons.csv` and `table.md`; returns their paths."""
        metrics = {task.name: task.metric for task in self.tasks}
        scores = [(*key, metrics[key[1]], *found) for key, found in self._scores.items()]
        differences = [
            (*key, *found[:4], claim.verdict, claim.p_value, claim.adjusted)
            for (key, found), claim in zip(self._comparisons.items(), self._claims.values(), strict=True)
        ]
        head = ("encoder", "against", "task", "evaluation", "difference", "low", "high", "mcnemar_p", "verdict")
        head += ("p", "adjusted_p")
        table = [self.head, ["---"] * len(self.head), *self.lines]
        contents = {
            "scores.csv": csv_text(("encoder", "task", "evaluation", "metric", "value", "low", "high"), scores),
            "comparisons.csv": csv_text(head, differences),
            "table.md": "".join(f"| {' | '.join(line)} |\n" for line in table),
        }
        for name, text in contents.items():
            write(out / name, text)
        list_refused(out, {task.name: _refused(task) for task in self.tasks})
        if self.leaks.rows:
            write(out / "leaks.csv", self.leaks.csv)
        else:
            (out / "leaks.csv").unlink(missing_ok=True)
        return [out / name for name in contents]


def run_matrix(settings: MatrixSettings, counting: Counting, say: Callable[[str], None]) -> MatrixReport:
    """Evaluates finished encoders on tasks; existing scores are read from `out`.

    Args:
      settings: encoders, tasks and evaluations.
      counting: context manager that shows the progress of one encoder.
      say: function that prints one line of text: remarks on encoders and tasks, then the scores of each encoder.

    Raises:
      ValueError: an encoder, a task or a setting is not valid.
    """
    out = Path(settings.out).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out={settings.out} is a file; name a folder.")
    evaluations = parse_evaluations(settings.evaluations, settings.evaluation_options)
    tasks = _Tasks(parse_tasks(settings.task))
    files, unfinished = find_encoders([Path(run).expanduser() for run in settings.run])
    if unfinished:
        runs = f"{len(unfinished)} of {len(unfinished) + len(files)} runs"
        say(f"{runs} are not finished and are excluded, e.g. {unfinished[0]}")
    named = by_kind(files)
    for remark in dict.fromkeys(how_it_was_read(encoder) for kind in named for _, _, encoder in kind.encoders):
        if remark:
            say(remark)
    trained = [
        _Job(kind.name, seed, str(file.parent if file.name == ENCODER else file), encoder)
        for kind in named
        for seed, file, encoder in kind.encoders
    ]
    baselines = _baselines(named) if settings.floors else []
    kinds: dict[str, list[ScoredEncoder]] = {}
    for number, job in enumerate([*trained, *baselines], 1):
        opened = tasks.on_canvas(_canvas(job.encoder, settings.image_size))
        if number == 1:
            # Each remark is printed once, although images may be resized to several canvases.
            for line in itertools.chain.from_iterable(map(_introduction, opened)):
                say(line)
        title = f"{number}/{len(trained) + len(baselines)} {job.name}"
        with counting(title) as on_images:
            encoder = _evaluate(job, opened, evaluations, settings.features, out, on_images)
        # Without a draw in its card, an encoder has images of its own.
        draw = int(job.encoder.card.get("draw", job.seed))
        kinds.setdefault(job.name, []).append(ScoredEncoder(job.seed, draw, encoder))
        say(f"{title}{f' ({job.path})' if job.path else ''}: {_scores_text(encoder)}")
    cards = {kind.name: [encoder.card for _, _, encoder in kind.encoders] for kind in named}
    leaks = find_matrix_leaks(cards, opened, tasks.open)
    return MatrixReport(kinds, list(dict.fromkeys(job.name for job in baselines)), opened, leaks)


class _Job(NamedTuple):
    """An encoder to evaluate; with `pixels`, raw pixels of images in the encoder's shape are evaluated instead."""

    name: str
    seed: int
    path: str
    encoder: PretrainedEncoder
    pixels: bool = False


def _baselines(named: Sequence[EncoderKind]) -> list[_Job]:
    """Returns untrained encoders of every architecture, and raw pixels."""
    seeds = sorted({seed for kind in named for seed, _, _ in kind.encoders})[:_BASELINE_SEEDS]
    jobs = [
        _Job(name, seed, f"seed {seed}", untrained(encoder, seed)) for name, encoder in architectures(named) for seed in seeds
    ]
    return [*jobs, _Job(_PIXELS, 0, "", named[0].encoders[0][2], pixels=True)]


class _Tasks:
    """Tasks on the canvas of each encoder; every source is opened only once."""

    def __init__(self, declared: Sequence[TaskDeclaration]):
        self._declared = declared
        self.open = functools.cache(open_source)
        self._on_canvas: dict[Canvas, tuple[Task, ...]] = {}

    def on_canvas(self, canvas: Canvas) -> tuple[Task, ...]:
        """Returns the tasks with images of this shape."""
        if canvas not in self._on_canvas:
            kept = functools.cache(lambda uri: cached(self.open(uri), canvas))
            self._on_canvas[canvas] = tuple(open_task(each, canvas, kept) for each in self._declared)
        return self._on_canvas[canvas]


def _introduction(task: Task) -> list[str]:
    """Returns lines with the sizes of a task's splits and the refused files."""
    counts = [f"{len(images.indices):,} {name}" for name, images in task.splits.items()]
    lines = [f"{task.name}: {', '.join(counts)} images, {task.classes} classes, {METRICS[task.metric].text}"]
    refused = _refused(task)
    return [*lines, refused_sentence(task.name, refused)] if refused else lines


def _refused(task: Task) -> list[Refused]:
    """Returns the refused files of a task; several of its splits may be of one source."""
    return list(dict.fromkeys(each for images in task.splits.values() for each in images.source.refused))


def _canvas(encoder: PretrainedEncoder, side: int) -> Canvas:
    height, width, channels = encoder.shape
    return Canvas(side or height, side or width, channels)


def _evaluate(
    job: _Job,
    tasks: Sequence[Task],
    evaluations: Mapping[str, Evaluation],
    features: str | None,
    out: Path,
    on_images: Callable[[int, int], None],
) -> EvaluatedEncoder:
    if job.pixels:
        folder = "pixels-" + "x".join(map(str, tasks[0].canvas))
        features = features or "pooled"
    else:
        folder = job.encoder.fingerprint[:16]
        # An encoder that was opened with other features than the pooled ones is evaluated with these features.
        features = features or job.encoder.features
    return evaluate_stored(
        Store(),
        lambda: pixel_encoder if job.pixels else NetworkEncoder(job.encoder),
        tasks,
        evaluations,
        features,
        out / "encoders" / folder,
        cache=out / "features",
        on_progress=lambda _, done, total: on_images(done, total),
    )


def _scores_text(encoder: EvaluatedEncoder) -> str:
    parts = []
    for task, scores in encoder.scores.items():
        values = [
            f"{evaluation_title(name)} {100 * each.value:.1f}%"
            for name, each in scores.evaluations.items()
            if not math.isnan(each.value)
        ]
        parts.append(f"{task}: {', '.join(values) or 'nothing could be evaluated'}")
    return "; ".join(parts)


def _percent(found: Interval | None) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found else ""
