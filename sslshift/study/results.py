"""Results of a study, the folder, record, name and card of each of its runs, and what was planned before results were known."""

import contextlib
import dataclasses
import datetime
import itertools
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from rich.console import Console

from sslshift.reporting.environment import versions
from sslshift.shards import editing
from sslshift.storage import ERROR_LOG, FAILED, NotStoredError, Store, read_json, slug, write, write_json
from sslshift.study.candidates import named_text
from sslshift.study.evaluate import InitialScores, evaluate_initial, evaluate_pixels, evaluate_run, evaluate_untrained
from sslshift.study.leaks import read_leaks
from sslshift.study.learners import Learner
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress
from sslshift.study.shifts import MeasuredShift, TaskShifts, name_of_features, read_shifts
from sslshift.transfer.leaks import SourceLeaks
from sslshift.transfer.scores import EvaluatedEncoder

# File of a study's folder with what each call planned, and how much was known when it did.
PLAN = "plan.json"
# Largest number of characters of an error in a report.
_LONGEST_REASON = 300


class Trained(NamedTuple):
    """Result of the training of a run.

    Attributes:
      loss_first, loss_last: mean loss over the first and the last twentieth of the steps.
      broken: images that could not be read and were replaced.
      unique_read: N without the broken images.
      seconds: wall-clock time of the training; None if an earlier version did not keep it.
      skipped: steps that were not applied, because loss or gradient was not finite (`--on_nonfinite=skip`).
      collapse: what had collapsed at the end of the training; empty if the encoder tells images apart.
    """

    loss_first: float
    loss_last: float
    broken: int
    unique_read: int
    seconds: float | None = None
    skipped: int = 0
    collapse: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run that is trained and evaluated."""

    run: Run
    trained: Trained
    evaluated: EvaluatedEncoder


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """All results of a study, which may be unfinished.

    Attributes:
      opened: the study.
      runs: finished runs in the order of the grid.
      untrained: scores of untrained encoders by method, encoder and seed, for all finished runs.
      pixels: scores of raw pixels.
      task_shifts: shifts by task and candidate.
      leaks: test images in sources, by source.
      failed: runs that raised an error, each with one sentence about the error.
      missing: runs that are neither finished nor failed.
      deviations: sentences on what was changed after results were known, see `plan_deviations`.
      initial: scores of the encoder that training continues from, by method and encoder; empty without `--init`.
      uris: names of candidates in the results table, by their names here; empty if they are the same.
    """

    opened: Opened
    runs: tuple[FinishedRun, ...]
    untrained: dict[tuple[str, str, int], EvaluatedEncoder]
    pixels: EvaluatedEncoder
    task_shifts: TaskShifts
    leaks: dict[str, SourceLeaks]
    failed: tuple[tuple[Run, str], ...] = ()
    missing: tuple[Run, ...] = ()
    deviations: tuple[str, ...] = ()
    initial: InitialScores = dataclasses.field(default_factory=dict)
    uris: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def named(self) -> "Results":
        """The results with the names of sources in place of their URIs, for people."""
        opened = self.opened
        names = opened.names
        return dataclasses.replace(
            self,
            opened=opened.named,
            runs=tuple(dataclasses.replace(each, run=opened.named_run(each.run)) for each in self.runs),
            task_shifts={
                task: {named_text(name, names): shift for name, shift in shifts.items()}
                for task, shifts in self.task_shifts.items()
            },
            leaks={names[uri]: leaks for uri, leaks in self.leaks.items()},
            failed=tuple((opened.named_run(run), reason) for run, reason in self.failed),
            missing=tuple(opened.named_run(run) for run in self.missing),
            uris={named_text(each.name, names): each.name for each in opened.candidates},
        )

    @property
    def shifts(self) -> dict[str, MeasuredShift]:
        """Shifts to the first task, by candidate."""
        return self.task_shifts[self.opened.task.name]

    @property
    def encoders(self) -> list[EvaluatedEncoder]:
        """Every encoder that was evaluated, baselines first."""
        return [self.pixels, *self.initial.values(), *self.untrained.values(), *(each.evaluated for each in self.runs)]


def stored_results(opened: Opened, failures: Mapping[Run, str] = MappingProxyType({})) -> Results:
    """Returns the results in a study's folder, of all shards if it has some; computes nothing.

    Args:
      opened: the study.
      failures: runs that have just failed, with the reason; some may have failed after their results were written.

    Raises:
      OtherRecordError: the folder has a run with other settings.
      NotStoredError: raw pixels are not evaluated yet.
    """
    # A report must not train or evaluate anything, so the store is read only.
    store = Store(read_only=True)
    silent = Progress(Console(quiet=True))
    untrained: dict[tuple[str, str, int], EvaluatedEncoder] = {}
    finished: list[FinishedRun] = []
    failed: list[tuple[Run, str]] = []
    missing: list[Run] = []
    for run in opened.runs:
        key = (*run.learner, run.seed)
        reason = failures.get(run, "")
        try:
            if key not in untrained:
                untrained[key] = evaluate_untrained(opened, store, opened.learner(run), run.seed, silent)
            if not reason:
                finished.append(_finished(opened, store, run))
        except NotStoredError:
            reason = reason or read_failure(run_folder(opened, run))
            missing += [] if reason else [run]
        failed += [(run, reason)] if reason else []
    for learner, seed in further_untrained(opened, [key[:2] for key in untrained]):
        with contextlib.suppress(NotStoredError):
            untrained[*learner.key, seed] = evaluate_untrained(opened, store, learner, seed, silent)
    pixels = evaluate_pixels(opened, store, silent)
    initial = evaluate_initial(opened, store, silent)
    shifts = read_shifts(opened, store, silent)
    leaks = read_leaks(opened, store, silent)
    rest = (tuple(failed), tuple(missing), plan_deviations(opened), initial)
    return Results(opened, tuple(finished), untrained, pixels, shifts, leaks, *rest)


def further_untrained(opened: Opened, learners: Collection[tuple[str, str]]) -> list[tuple[Learner, int]]:
    """Returns the untrained encoders of further seeds of learners, given by their keys; they make gains more precise."""
    seeds = range(opened.design.seeds, opened.design.untrained_seeds)
    return [(learner, seed) for learner in opened.learners if learner.key in learners for seed in seeds]


def _finished(opened: Opened, store: Store, run: Run) -> FinishedRun:
    folder = run_folder(opened, run)
    result = store.recalled(folder, run_record(opened, run))
    if result is None:
        raise NotStoredError(f"{folder} holds no result yet.")
    return FinishedRun(run, Trained(**result), evaluate_run(opened, store, folder))


class Planned(NamedTuple):
    """Plan of one call of a study.

    Attributes:
      primary: the primary hypothesis.
      seeds, draws: numbers of training seeds and of draws of each subset.
      known: number of runs whose results were known when the call started.
    """

    primary: str
    seeds: int
    draws: int
    known: int


def keep_plan(opened: Opened, known: int, known_seeds: int = 0) -> None:
    """Adds what a call plans to `plan.json` in the study's folder, if it is not what the last call planned.

    Args:
      opened: the study.
      known: number of runs whose results are known.
      known_seeds: number of seeds of a finished grid; 0 if it is not finished. An earlier version kept no plan: the seeds of
        its finished grid were planned.
    """
    design = opened.design
    planned = Planned(design.primary, design.seeds, design.draws, known)
    with editing(design.out):
        calls = _planned(opened) or ([planned._replace(seeds=known_seeds, known=0)] if known_seeds else [])
        if not calls or calls[-1][:3] != planned[:3] or not (design.out / PLAN).exists():
            write_json(design.out / PLAN, {"calls": [each._asdict() for each in (*calls, planned)]})


def plan_deviations(opened: Opened) -> tuple[str, ...]:
    """Returns sentences on what was changed after results were known, which makes false findings more frequent than stated."""
    design = opened.design
    calls = _planned(opened)
    found = []
    for before, after in itertools.pairwise(calls):
        if not after.known:
            continue
        when = f"after the results of {after.known:,} runs were known"
        if after.primary != before.primary:
            found.append(f"The primary hypothesis was changed from {before.primary} to {after.primary} {when}")
        for name in ("seeds", "draws"):
            earlier = max(getattr(each, name) for each in calls[: calls.index(after)])
            if earlier and getattr(after, name) > earlier:
                found.append(f"The number of {name} was raised from {earlier} to {getattr(after, name)} {when}")
    most = max((each.seeds for each in calls), default=0)
    if design.seeds < most:
        found.append(f"The study was planned with {most} seeds, and this report uses {design.seeds}")
    return tuple(found)


def _planned(opened: Opened) -> list[Planned]:
    path = opened.design.out / PLAN
    if not path.exists():
        return []
    try:
        calls = read_json(path)["calls"]
        return [Planned(str(each["primary"]), *(int(each[name]) for name in Planned._fields[1:])) for each in calls]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read, which holds what was planned before results were known ({error}). Delete it to continue; "
            "the report then cannot say what was changed since."
        ) from error


def run_folder(opened: Opened, run: Run) -> Path:
    """Returns the folder of a run."""
    # The name distinguishes a run from the other runs of the study; the record has all other settings.
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
    """Returns a short description that distinguishes a run from the other runs of its study."""
    learner = f"{opened.learner(run)}: " if len(opened.learners) > 1 else ""
    source = named_text(run.source, opened.names)
    return f"{learner}{source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.design.draws else "")


def encoder_card(opened: Opened, run: Run, shift: MeasuredShift, trained: dict[str, Any]) -> dict[str, Any]:
    """Returns the card in the file of a run's encoder: the training, the data with their licences, and the shift."""
    candidate = opened.candidate(run)
    sources = {
        uri: {
            "licence": source.licence,
            "cost_per_image": source.cost_per_image,
            "unique": candidate.mixture.largest[uri],
            "images": len(source),
            "fingerprint": source.fingerprint,
        }
        for uri, source in opened.sources.items()
        if uri in candidate.mixture.largest
    }
    budget = opened.design.budget
    settings = opened.design.shift
    learner = opened.learner(run)
    record = learner.record
    unique = trained["unique_read"]
    measured = {"by": settings.distance, "features": name_of_features(settings)} if settings.images else {}
    initial = learner.settings.initial
    start = {"digest": learner.settings.initial_digest, **initial.card} if initial else {}
    return {
        "method": {"name": record["method"], "options": record["method_options"]},
        "encoder": {"name": record["encoder"], "parameters": learner.parameters, "dtype": record["dtype"]},
        **({"init": start} if initial else {}),
        "optimiser": record["optimiser"],
        "views": record["views"],
        "mixture": candidate.text or candidate.name,
        "budget": budget.samples,
        "batch_size": record["batch_size"],
        "unique": unique,
        "diversity": budget.diversity(unique),
        "epochs": budget.epochs(unique),
        "seed": run.seed,
        "draw": run.draw,
        "sources": sources,
        "shift": {"to": opened.task.name, **_finite(measured | shift.as_result())},
        "training": _finite(trained),
        "versions": versions(),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values without those that are nan, which JSON cannot represent."""
    return {name: value for name, value in values.items() if value == value}


def keep_failure(folder: Path, error: Exception) -> str:
    """Writes the error that is being handled to the folder of a run, and returns it as one sentence."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 4]} ..."
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED, {"error": type(error).__name__, "message": text, "time": now})
    write(folder / ERROR_LOG, traceback.format_exc())
    return f"{type(error).__name__}: {text}"


def read_failure(folder: Path) -> str:
    """Returns the reason why the last attempt of a run failed; empty if there was no failure."""
    try:
        failure = read_json(folder / FAILED)
    except FileNotFoundError:
        # There is none, or another process has just repeated the run.
        return ""
    return f"{failure['error']}: {failure['message']}"
