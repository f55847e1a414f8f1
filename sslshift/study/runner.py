"""Runner of a study: trains and evaluates missing runs, reads finished ones, and keeps results in folders and in the table.

After `kill -9` at any moment the same command continues: a checkpoint is whole or absent (`sslshift.training.checkpoints`), a
result is written after its work has ended (`sslshift.storage.Store`), and a row is added after its run has finished.
"""

import contextlib
import datetime
import errno
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from sslshift.clock import TRAINING, Clock
from sslshift.models import ENCODER, save_encoder
from sslshift.reporting.environment import versions
from sslshift.storage import ERROR_LOG, FAILED, NotStoredError, OtherRecordError, Store, read_json, write, write_json
from sslshift.study.candidates import Candidate
from sslshift.study.evaluate import (
    PIXELS,
    UNTRAINED,
    evaluate_pixels,
    evaluate_run,
    evaluate_untrained,
    untrained_record,
)
from sslshift.study.leaks import read_leaks, search_leaks
from sslshift.study.ledger import Ledger, LedgerError, baseline_rows, read_ledger, require_budget, run_rows
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress
from sslshift.study.results import FinishedRun, Results, Trained, describe_run, run_folder, run_record
from sslshift.study.shifts import MeasuredShift, measure_shifts, name_of_features, read_shifts
from sslshift.training.checkpoints import NotWrittenError
from sslshift.training.journal import BROKEN, loss_trend, read_broken
from sslshift.training.loop import OnStep, train
from sslshift.training.programs import bound_programs
from sslshift.transfer.features import encoder_of
from sslshift.transfer.scores import EvaluatedEncoder

# After these errors no run can continue. Any other error concerns one run, and the study continues.
_STOPS = (NotWrittenError, OtherRecordError, LedgerError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Largest number of characters of an error in a report.
_LONGEST_REASON = 300


def run_study(opened: Opened, progress: Progress) -> Results:
    """Evaluates baselines, measures shifts, then trains and evaluates every run. Finished parts are read from the folder.

    A run that raises an error is recorded and the study continues; the next call tries the run again.

    Raises:
      OtherRecordError: the folder has a run with other settings.
      LedgerError: the results table was edited, or has another budget.
      CheckpointError, OSError: the disk is full.
      ValueError: a result that all runs need cannot be computed.
    """
    store = Store()
    ledger = Ledger(opened.design.out, opened.design.budget.samples)
    # The table is checked first, so that a folder of another study is refused before hours of work.
    unfinished = [run for run in opened.runs if store.recalled(run_folder(opened, run), run_record(opened, run)) is None]
    clock = progress.clock
    with clock.part("leaks"):
        leaks = search_leaks(opened, store, progress)
    with clock.part("baselines"):
        pixels = evaluate_pixels(opened, store, progress)
    ledger.add(baseline_rows(opened, pixels, PIXELS, {}))
    with clock.part("shift"):
        task_shifts = measure_shifts(opened, store, progress)
    untrained: dict[tuple[str, str, int], EvaluatedEncoder] = {}
    finished: list[FinishedRun] = []
    failed: list[tuple[Run, str]] = []
    with progress.study(len(opened.runs), [run.learner for run in unfinished], opened.weights):
        for number, run in enumerate(opened.runs, 1):
            # Each run compiles its own programs, and the number of programs in a process is limited.
            bound_programs()
            learner = opened.learner(run)
            name = describe_run(opened, run)
            key = (*learner.key, run.seed)
            folder = run_folder(opened, run)
            record = run_record(opened, run)
            with _failing(opened, run, progress) as failures:
                if key not in untrained:
                    with clock.part("baselines"):
                        untrained[key] = evaluate_untrained(opened, store, learner, run.seed, progress)
                    start = untrained_record(learner, run.seed)
                    ledger.add(baseline_rows(opened, untrained[key], UNTRAINED, start))
                with progress.run(name, number, len(opened.runs), learner.steps, learner.key) as work:
                    # `store.remembered` would work too, but a direct call keeps the path from here to the training step short.
                    result = store.recalled(folder, record)
                    if result is None:
                        store.begin(folder, record)
                        shift = task_shifts[opened.task.name][run.source]
                        result = store.finish(folder, train_run(opened, run, shift, work.on_step, clock))
                    with clock.part("evaluating"):
                        evaluated = evaluate_run(opened, store, folder, work.on_progress)
                finished.append(FinishedRun(run, Trained(**result), evaluated))
                progress.say_scores(name, evaluated.scores[opened.task.name])
                ledger.add(run_rows(opened, finished[-1], untrained[key], task_shifts))
            failed += [(run, reason) for reason in failures]
    return Results(opened, tuple(finished), untrained, pixels, task_shifts, leaks, tuple(failed))


def read_results(opened: Opened) -> Results:
    """Returns the results in a study's folder; computes nothing. The results name the missing runs.

    Raises:
      OtherRecordError: the folder has a run with other settings.
      LedgerError: the results table was edited, or has another budget.
      NotStoredError: no run is finished.
    """
    out = opened.design.out
    # A report must not train or evaluate anything, so the store is read only.
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
    """Returns the reason why the last attempt of a run failed; empty if there was no failure."""
    path = folder / FAILED
    if not path.exists():
        return ""
    failure = read_json(path)
    return f"{failure['error']}: {failure['message']}"


def train_run(opened: Opened, run: Run, shift: MeasuredShift, on_step: OnStep, clock: Clock) -> dict[str, Any]:
    """Trains a run from its latest checkpoint, if it has one, and saves its encoder with a card.

    Args:
      opened: the study.
      run: run of the study.
      shift: shift of the run's candidate to the first task, for the card.
      on_step: see `sslshift.training.loop.train`.
      clock: clock of the command; it counts the samples.

    Returns:
      The fields of `Trained`, for `result.json`.
    """
    started = time.monotonic()
    folder = run_folder(opened, run)
    candidate = opened.candidate(run)
    learner = opened.learner(run)
    training = learner.training
    at_peak = learner.step_at_peak

    def on_counted_step(step: int, scalars: dict[str, float]) -> None:
        clock.samples += learner.batch_size
        clock.at_peak += at_peak
        on_step(step, scalars)

    # Reading batches and writing checkpoints are part of training.
    with clock.part(TRAINING):
        reader = opened.reader(candidate.mixture, run.seed, run.draw)
        state = train(training, reader, run.seed, folder, on_counted_step, online=opened.online)
    first, last = loss_trend(folder / "metrics.jsonl")
    broken = len(read_broken(folder / BROKEN))
    trained = {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": candidate.mixture.unique - broken}
    card = _encoder_card(opened, candidate, run, shift, trained)
    save_encoder(encoder_of(training.method, state.variables, opened.canvas, card), folder / ENCODER)
    # The card does not contain the time, so that equal runs give equal files.
    return trained | {"seconds": round(time.monotonic() - started, 2)}


def _encoder_card(
    opened: Opened, candidate: Candidate, run: Run, shift: MeasuredShift, trained: dict[str, Any]
) -> dict[str, Any]:
    """Returns the card in the file of a run's encoder: the training, the data with their licences, and the shift."""
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
    return {
        "method": {"name": record["method"], "options": record["method_options"]},
        "encoder": {"name": record["encoder"], "parameters": learner.parameters, "dtype": record["dtype"]},
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


@contextlib.contextmanager
def _failing(opened: Opened, run: Run, progress: Progress) -> Iterator[list[str]]:
    """Records the error of a run and appends the reason to the list that it yields. Errors that stop the study are raised."""
    folder = run_folder(opened, run)
    reasons: list[str] = []
    try:
        yield reasons
        for name in (FAILED, ERROR_LOG):
            (folder / name).unlink(missing_ok=True)
    except _STOPS:
        raise
    except Exception as error:
        # The next run would fail too, and the failure could not be written.
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reasons.append(_record_failure(opened, run, folder, error, progress))


def _record_failure(opened: Opened, run: Run, folder: Path, error: Exception, progress: Progress) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 4]} ..."
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FAILED, {"error": type(error).__name__, "message": text, "time": now})
    write(folder / ERROR_LOG, traceback.format_exc())
    reason = f"{type(error).__name__}: {text}"
    progress.note(f"FAILED {describe_run(opened, run)}: {reason} (details: {folder / ERROR_LOG})")
    return reason
