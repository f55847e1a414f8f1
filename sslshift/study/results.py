"""Results of a study: what its folder holds so far, and where each run keeps its part."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from sslshift.storage import FAILED, NotStoredError, Store, read_json, slug
from sslshift.study.evaluate import evaluate_pixels, evaluate_run, evaluate_untrained
from sslshift.study.leaks import SourceLeaks, read_leaks
from sslshift.study.ledger import read_ledger, require_budget
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress
from sslshift.study.shifts import MeasuredShift, TaskShifts, read_shifts
from sslshift.transfer.scores import EvaluatedEncoder


class Trained(NamedTuple):
    """What the training of a run gave.

    Attributes:
      loss_first, loss_last: mean loss over the first and the last twentieth of the steps.
      broken: images that could not be read and were replaced.
      unique_read: N less these.
      seconds: of training on the clock; None where an earlier version did not keep it.
    """

    loss_first: float
    loss_last: float
    broken: int
    unique_read: int
    seconds: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that is trained and evaluated."""

    run: Run
    trained: Trained
    evaluated: EvaluatedEncoder


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a study found, also of one that is not finished.

    Attributes:
      opened: the study.
      runs: finished runs in the order of the grid.
      untrained: untrained encoders by method, encoder and seed; each finished run's is among them.
      pixels: raw pixels.
      task_shifts: shifts by task and candidate.
      leaks: test images in sources, by source.
      failed: runs that raised an error, each with the error in one sentence.
      missing: runs that are neither finished nor failed.
    """

    opened: Opened
    runs: tuple[FinishedRun, ...]
    untrained: dict[tuple[str, str, int], EvaluatedEncoder]
    pixels: EvaluatedEncoder
    task_shifts: TaskShifts
    leaks: dict[str, SourceLeaks]
    failed: tuple[tuple[Run, str], ...] = ()
    missing: tuple[Run, ...] = ()

    @property
    def shifts(self) -> dict[str, MeasuredShift]:
        """Shifts to the first task, by candidate."""
        return self.task_shifts[self.opened.task.name]

    @property
    def encoders(self) -> list[EvaluatedEncoder]:
        """Every encoder that was evaluated, baselines first."""
        return [self.pixels, *self.untrained.values(), *(each.evaluated for each in self.runs)]


def run_folder(opened: Opened, run: Run) -> Path:
    """Returns the folder of a run."""
    name = f"{slug(run.source)}-{run.method}-{run.encoder}-n{run.unique}-d{run.draw}-s{run.seed}"
    return opened.design.out / "runs" / name


def run_record(opened: Opened, run: Run) -> dict[str, Any]:
    """Returns everything that a run's training depends on."""
    candidate = opened.candidate(run)
    sources = {uri: opened.sources[uri] for uri in candidate.mixture.largest}
    return opened.learner(run).record | {
        "run": dataclasses.asdict(run),
        "mixture": dataclasses.asdict(candidate.mixture),
        "sources": {uri: {"fingerprint": each.fingerprint, "licence": each.licence} for uri, each in sources.items()},
    }


def describe_run(opened: Opened, run: Run) -> str:
    """Returns a run in words, no more of them than distinguish it from others of its study."""
    learner = f"{opened.learner(run)}: " if len(opened.learners) > 1 else ""
    return f"{learner}{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.design.draws else "")


def read_results(opened: Opened) -> Results:
    """Returns what a study's folder holds; computes nothing. Runs that are not there are named in the results.

    Raises:
      OtherRecordError: a run is there with other settings.
      LedgerError: the results table was edited, or is of another budget.
      NotStoredError: no run is finished.
    """
    out = opened.design.out
    store = Store(read_only=True)
    silent = Progress(Console(quiet=True))
    require_budget(read_ledger(out), opened.design.budget.samples, out)
    untrained: dict[tuple[str, str, int], EvaluatedEncoder] = {}
    finished: list[FinishedRun] = []
    failed: list[tuple[Run, str]] = []
    missing: list[Run] = []
    for run in opened.runs:
        key = (*run.learner, run.seed)
        try:
            if key not in untrained:
                untrained[key] = evaluate_untrained(opened, store, opened.learner(run), run.seed, silent)
            finished.append(_finished(opened, store, run))
        except NotStoredError:
            reason = _failure(run_folder(opened, run))
            if reason:
                failed.append((run, reason))
            else:
                missing.append(run)
    if not finished:
        raise NotStoredError(f"No run of this study is finished in {out}; the same command without --report_only runs them.")
    pixels = evaluate_pixels(opened, store, silent)
    shifts = read_shifts(opened, store, silent)
    leaks = read_leaks(opened, store, silent)
    return Results(opened, tuple(finished), untrained, pixels, shifts, leaks, tuple(failed), tuple(missing))


def _finished(opened: Opened, store: Store, run: Run) -> FinishedRun:
    folder = run_folder(opened, run)
    result = store.recalled(folder, run_record(opened, run))
    if result is None:
        raise NotStoredError(f"{folder} holds no result yet.")
    return FinishedRun(run, Trained(**result), evaluate_run(opened, store, folder))


def _failure(folder: Path) -> str:
    """Returns why a run failed when it was last tried; empty if it did not."""
    path = folder / FAILED
    if not path.exists():
        return ""
    failure = read_json(path)
    return f"{failure['error']}: {failure['message']}"
