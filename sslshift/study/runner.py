"""Runs a study: trains and judges what is missing, and keeps everything in folders and in the results table."""

import contextlib
import datetime
import errno
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console

from sslshift.models import ENCODER, load_encoder, save_encoder
from sslshift.study.card import encoder_card
from sslshift.study.floors import judge_pixels, judge_untrained, start_record
from sslshift.study.judged import Judged, judge
from sslshift.study.leaks import search_leaks
from sslshift.study.ledger import LedgerError, Row, append, read_ledger, require_budget
from sslshift.study.opened import Opened, Run
from sslshift.study.places import describe_run, failure_of, run_folder, run_record
from sslshift.study.progress import Progress, Work
from sslshift.study.records import (
    ERROR_LOG,
    FAILED,
    NotThereError,
    OtherConfigurationError,
    only_reading,
    recalled,
    remembered,
    write_atomically,
)
from sslshift.study.results import Results
from sslshift.study.rows import floor_rows, run_rows
from sslshift.study.shifts import measure_task_shifts, unknown_shift
from sslshift.training.checkpoints import NotWrittenError
from sslshift.training.journal import BROKEN, loss_trend, read_broken
from sslshift.training.loop import train
from sslshift.training.programs import bound_programs
from sslshift.transfer.features import NetworkEncoder, encoder_of

__all__ = ["DISK_FULL", "Results", "read_results", "run_study"]

# With these nothing of a study can go on; whatever else a run raises is that run's alone.
_STOPS = (NotWrittenError, OtherConfigurationError, LedgerError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# The error of a failed run as one line of a report.
_LONGEST_REASON = 300


def run_study(opened: Opened, progress: Progress) -> Results:
    """Floors, shifts, then every run; what a folder already holds is read, not computed.

    A run that raises an error is recorded and the study goes on; the next call tries it again.

    Raises:
      OtherConfigurationError: a run is there with other settings.
      LedgerError: the results table was edited, or is of another budget.
      CheckpointError, OSError: the disk is full.
      ValueError: what all runs need cannot be computed.
    """
    out = Path(opened.study.out)
    table = _Table(opened)
    unfinished = [run for run in opened.runs if recalled(run_folder(opened, run), run_record(opened, run)) is None]
    leaks = search_leaks(opened, out, progress)
    pixels = judge_pixels(opened, progress)
    table.add(floor_rows(opened, pixels, "raw pixels", {}))
    shifts = measure_task_shifts(opened, out, progress)
    floors: dict[tuple[str, str, int], Judged] = {}
    finished: list[tuple[Run, Judged]] = []
    failed: list[tuple[Run, str]] = []
    kinds = [(run.method, run.encoder) for run in unfinished]
    with progress.study(len(opened.runs), kinds, opened.weights):
        for number, run in enumerate(opened.runs, 1):
            bound_programs()
            learner = opened.learner(run)
            what = describe_run(opened, run)
            key = (*learner.key, run.seed)
            with _failing(opened, run, progress) as failures:
                if key not in floors:
                    floors[key] = judge_untrained(opened, learner, run.seed, progress)
                    table.add(floor_rows(opened, floors[key], "untrained encoder", start_record(learner, run.seed)))
                with progress.run(what, number, len(opened.runs), learner.steps, learner.key) as work:
                    judged = _run(opened, run, shifts[opened.task.name][run.source], work)
                progress.say(what, judged.scores[opened.task.name])
                finished.append((run, judged))
                table.add(run_rows(opened, run, judged, floors[key], shifts))
            failed += [(run, reason) for reason in failures]
    return Results(opened, tuple(finished), floors, pixels, shifts, leaks, tuple(failed))


def read_results(opened: Opened) -> Results:
    """What a study's folder holds already; nothing is computed, and runs that are not there are named in the results.

    Raises:
      OtherConfigurationError: a run is there with other settings.
      LedgerError: the results table was edited, or is of another budget.
      NotThereError: no run is finished.
    """
    out = Path(opened.study.out)
    silent = Progress(Console(quiet=True))
    require_budget(read_ledger(out), opened.budget.samples, out)
    floors = {}
    finished = []
    failed = []
    missing = []
    with only_reading():
        for run in opened.runs:
            try:
                key = (run.method, run.encoder, run.seed)
                floors[key] = floors.get(key) or judge_untrained(opened, opened.learner(run), run.seed, silent)
                finished.append((run, _run(opened, run, {}, None)))
            except NotThereError:
                reason = failure_of(opened, run)
                missing += [] if reason else [run]
                failed += [(run, reason)] if reason else []
        if not finished:
            raise NotThereError(f"No run of this study is finished in {out}; the same command without --report_only runs them.")
        pixels = judge_pixels(opened, silent)
        try:
            shifts = measure_task_shifts(opened, out, silent)
        except NotThereError:
            unknown = {each.name: unknown_shift("It is not measured yet") for each in opened.candidates}
            shifts = {task.name: unknown for task in opened.tasks}
        try:
            leaks = search_leaks(opened, out, silent)
        except NotThereError:
            leaks = {uri: {"why": "the study is not finished"} for uri in opened.sources}
    return Results(opened, tuple(finished), floors, pixels, shifts, leaks, tuple(failed), tuple(missing))


class _Table:
    """The results table of a study that runs: rows are on disk before anything else is done."""

    def __init__(self, opened: Opened):
        self._out = Path(opened.study.out)
        self._rows = read_ledger(self._out)
        require_budget(self._rows, opened.budget.samples, self._out)

    def add(self, rows: list[Row]) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        self._rows = append(self._rows, rows, self._out)


@contextlib.contextmanager
def _failing(opened: Opened, run: Run, progress: Progress) -> Iterator[list[str]]:
    """Records what a run raises, and yields a list that then holds the reason; what stops the whole study goes through."""
    folder = run_folder(opened, run)
    reasons = []
    try:
        yield reasons
        for name in (FAILED, ERROR_LOG):
            (folder / name).unlink(missing_ok=True)
    except _STOPS:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        text = " ".join(str(error).split())
        text = text if len(text) <= _LONGEST_REASON else f"{text[: _LONGEST_REASON - 4]} ..."
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        folder.mkdir(parents=True, exist_ok=True)
        failure = {"error": type(error).__name__, "message": text, "time": now}
        write_atomically(folder / FAILED, json.dumps(failure, indent=2) + "\n")
        write_atomically(folder / ERROR_LOG, traceback.format_exc())
        progress.note(f"FAILED {describe_run(opened, run)}: {failure['error']}: {text} (details: {folder / ERROR_LOG})")
        reasons.append(f"{failure['error']}: {text}")


def _run(opened: Opened, run: Run, shift: dict, work: Work | None) -> Judged:
    folder = run_folder(opened, run)
    trained = remembered(folder, run_record(opened, run), lambda: _train(opened, run, shift, folder, work.on_step))
    how = (opened.tasks, opened.evaluations, opened.study.features)

    def encoder() -> NetworkEncoder:
        if not (folder / ENCODER).exists():
            raise ValueError(f"{folder} has lost its {ENCODER}; delete that folder, and the same command trains the run again.")
        return NetworkEncoder(load_encoder(folder / ENCODER))

    return judge(encoder, *how, folder, trained=trained, **({"on_progress": work.on_progress} if work else {}))


def _train(opened: Opened, run: Run, shift: dict, folder: Path, on_step: Callable) -> dict:
    started = time.monotonic()
    candidate = opened.candidate(run)
    training = opened.learner(run).training
    reader = opened.reader(candidate.mixture, run.seed, run.draw)
    state = train(training, reader, run.seed, folder, on_step, online=opened.online)
    first, last = loss_trend(folder / "metrics.jsonl")
    broken = len(read_broken(folder / BROKEN))
    trained = {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": candidate.mixture.unique - broken}
    card = encoder_card(opened, candidate, run, shift, trained)
    save_encoder(encoder_of(training.method, state.variables, opened.canvas, card), folder / ENCODER)
    # Not on the card: equal runs make equal encoders, whatever time they took.
    return trained | {"seconds": round(time.monotonic() - started, 2)}
