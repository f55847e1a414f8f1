"""From runs to rows and sentences."""

import dataclasses
import functools
import math

import numpy as np

from sslshift.study.intervals import Interval, crossed, two_digits
from sslshift.study.judged import Judged, Kind, difference, score
from sslshift.study.leaks import told
from sslshift.study.opened import Run
from sslshift.study.runner import Results


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: one source and number of unique samples, or a floor.

    Attributes:
      source: URI, or the floor's name.
      learner: names of method and encoder; None for raw pixels.
      unique, diversity, epochs: N, D, E, of what could be read (the mean over draws, rounded); None for a floor.
      shift: the source's shift index as (value, low, high); None for a floor.
      scores: the metric on the test split by task and evaluation, over seeds, draws and test images.
      gains: what the linear probe gains over that of the same seeds' untrained encoders, by task; empty for a floor.
    """

    source: str
    unique: int | None
    diversity: float | None
    epochs: float | None
    shift: tuple[float, float, float] | None
    scores: dict[str, dict[str, Interval]]
    gains: dict[str, Interval]
    learner: tuple[str, str] | None = None


@functools.lru_cache(maxsize=4)
def rows(results: Results) -> tuple[Row, ...]:
    """The table's lines, sources in the order of their shift, then unique samples, floors last."""
    budget = results.opened.budget
    order = [learner.key for learner in results.opened.learners]
    kinds = sorted(
        {((run.method, run.encoder), run.source, run.unique) for run, _ in results.runs},
        key=lambda kind: (order.index(kind[0]), shift_order(results.shifts[kind[1]]), kind),
    )
    table = []
    for learner, source, unique in kinds:
        kind = _kind(results, learner, source, unique)
        untrained = [(run.seed, results.untrained_of(run)) for run, _ in runs_of(results, learner, source, unique)]
        read = round(sum(judged.trained["unique_read"] for _, judged in kind) / len(kind))
        shift = results.shifts[source]
        table.append(
            Row(
                source,
                read,
                budget.diversity(read),
                budget.epochs(read),
                (shift["value"], shift["low"], shift["high"]),
                _scores(results, kind),
                {task.name: _difference(results, kind, untrained, task.name) for task in results.opened.tasks},
                learner,
            )
        )
    for learner, floor in results.untrained.items():
        if floor:
            table.append(
                Row("untrained encoder", None, None, None, None, _scores(results, list(enumerate(floor))), {}, learner)
            )
    table.append(Row("raw pixels", None, None, None, None, _scores(results, [(0, results.pixels)]), {}))
    return tuple(table)


def runs_of(results: Results, learner: tuple[str, str], source: str, unique: int) -> list[tuple[Run, Judged]]:
    """Runs of one kind: they differ by seed and draw alone."""
    kind = (*learner, source, unique)
    return [(run, judged) for run, judged in results.runs if (run.method, run.encoder, run.source, run.unique) == kind]


def _kind(results: Results, learner: tuple[str, str], source: str, unique: int) -> Kind:
    return [(run.seed, judged) for run, judged in runs_of(results, learner, source, unique)]


def _scores(results: Results, kind: Kind) -> dict[str, dict[str, Interval]]:
    found: dict[str, dict[str, Interval]] = {}
    for task in results.opened.tasks:
        scores = {name: score(kind, task.name, name) for name in kind[0][1].evaluations(task.name)}
        found[task.name] = {name: Interval(each.value, (each.high - each.low) / 2) for name, each in scores.items() if each}
    return found


def _difference(results: Results, a: Kind, b: Kind, task: str) -> Interval:
    """What the linear probe gets on `a` less what it gets on `b`."""
    found = difference(a, b, task, "linear")
    # Of one run a side the test images' own interval says nothing of what other seeds would give.
    alone = results.opened.study.seeds == 1 and results.opened.study.draws < 2
    return Interval(found.difference, math.nan if alone else (found.high - found.low) / 2)


def shift_order(shift: dict) -> float:
    """Sort key of a shift: near sources first, those without an index last."""
    return math.inf if math.isnan(shift["value"]) else shift["value"]


def findings(results: Results) -> list[str]:
    """What the study shows, in sentences that claim no more than the intervals do."""
    table = [row for row in rows(results) if row.unique is not None]
    task, sentences = results.opened.task.name, []
    several = len(results.opened.learners) > 1
    for learner, source in dict.fromkeys((row.learner, row.source) for row in table):
        ladder = [row for row in table if (row.learner, row.source) == (learner, source)]
        first, last = ladder[0], ladder[-1]
        place = f"{f'{learner[0]} on {learner[1]}, ' if several else ''}{source} (shift index {two_digits(first.shift[0])})"
        sentences.append(
            f"{place}: pretrained on {last.unique:,} different images, the encoder's linear probe is "
            f"{last.gains[task].points} from the untrained encoder's: {last.gains[task].verdict}."
        )
        numbers = [run.unique for run, _ in results.runs if (run.method, run.encoder, run.source) == (*learner, source)]
        if min(numbers) != max(numbers):
            step = _step(results, learner, source, min(numbers), max(numbers), task)
            shown = f"more diversity is {step.verdict}" if step.verdict in ("better", "worse") else step.verdict
            sentences.append(
                f"{place}: from {first.unique:,} to {last.unique:,} different images at the same budget "
                f"(D {first.diversity:.2g} to {last.diversity:.2g}): {step.points}: {shown}."
            )
    leaked = [
        f"Warning: {told(uri, leaks, results.opened)}; accuracies after pretraining on it may be too high."
        for uri, leaks in results.leaks.items()
        if leaks.get("count")
    ]
    return sentences + _scatter(results) + leaked


@functools.lru_cache(maxsize=64)
def _step(results: Results, learner: tuple[str, str], source: str, fewer: int, more: int, task: str) -> Interval:
    return _difference(results, _kind(results, learner, source, more), _kind(results, learner, source, fewer), task)


def _scatter(results: Results) -> list[str]:
    """How much of the differences between runs comes from the draw of the subset, and how much from the training seed."""
    study, task = results.opened.study, results.opened.task.name
    if min(study.draws, study.seeds) < 2:
        return []
    kinds = dict.fromkeys(((run.method, run.encoder), run.source, run.unique) for run, _ in results.runs)
    parts = []
    for kind in kinds:
        values = [judged.scores[task]["linear"] for _, judged in runs_of(results, *kind)]
        if len(values) == study.draws * study.seeds:
            parts.append(crossed(np.reshape(values, (study.draws, study.seeds))))
    if not parts:
        return []
    draws, seeds = (100 * np.sqrt(np.mean([getattr(part, what) ** 2 for part in parts])) for what in ("draws", "seeds"))
    return [
        f"Runs of one kind differ by {draws:.2f} points between draws of the subset and by {seeds:.2f} points between training "
        f"seeds (standard deviations of linear accuracy; {study.draws} draws x {study.seeds} seeds)."
    ]
