"""Runner of a study: trains and evaluates missing runs, reads finished ones, and keeps results in folders and in the table.

After `kill -9` at any moment the same command continues: a checkpoint is whole or absent (`sslshift.training.checkpoints`), a
result is written after its work has ended (`sslshift.storage.Store`), and a row is added after its run has finished.

On an accelerator, the encoder of a run is kept and evaluated on another thread while the next run trains. Rows, lines and
failures come in the order of the runs as they do without it.
"""

import contextlib
import dataclasses
import errno
import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax

from sslshift import cluster
from sslshift.clock import TRAINING, Clock
from sslshift.heartbeat import Heartbeat, keep_run_list
from sslshift.models import ENCODER, save_encoder
from sslshift.reporting.ledger import LedgerError, read_ledger, require_budget
from sslshift.shards import LOCKS, editing
from sslshift.stopping import StoppedError
from sslshift.storage import ERROR_LOG, FAILED, LockedError, NotStoredError, OtherRecordError, Store
from sslshift.study.evaluate import (
    PIXELS,
    UNTRAINED,
    InitialScores,
    evaluate_initial,
    evaluate_pixels,
    evaluate_run,
    evaluate_untrained,
    untrained_record,
)
from sslshift.study.leaks import search_leaks
from sslshift.study.learners import Learner
from sslshift.study.ledger import Ledger, all_rows, baseline_rows, initial_rows, run_rows
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress
from sslshift.study.results import (
    FinishedRun,
    Results,
    Trained,
    describe_run,
    encoder_card,
    further_untrained,
    keep_failure,
    keep_plan,
    run_folder,
    run_record,
    stored_results,
)
from sslshift.study.shifts import MeasuredShift, TaskShifts, measure_shifts, trained_reference
from sslshift.training.checkpoints import NotWrittenError
from sslshift.training.collapse import final_collapse
from sslshift.training.guards import skipped_steps
from sslshift.training.journal import BROKEN, METRICS, loss_trend, read_broken, read_metrics
from sslshift.training.loop import train
from sslshift.training.programs import bound_programs
from sslshift.transfer.features import encoder_of
from sslshift.transfer.scores import EvaluatedEncoder

# After these errors no run can continue, see `_stops`.
_STOPS = (NotWrittenError, OtherRecordError, LedgerError)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# Part of the clock: evaluating runs, or waiting for their evaluation on the other thread.
EVALUATING = "evaluating"


def run_study(opened: Opened, progress: Progress) -> Results:
    """Evaluates baselines, measures shifts, then trains and evaluates every run. Finished parts are read from the folder.

    A shard runs its own part of the grid, and returns what all shards have finished. A run that raises an error is recorded and
    the study continues; the next call tries the run again.

    Raises:
      OtherRecordError: the folder has a run with other settings.
      LedgerError: the results table was edited, or has another budget.
      CheckpointError, OSError: the disk is full.
      ValueError: a result that all runs need cannot be computed.
    """
    store = Store(locks=opened.design.out / LOCKS, note=progress.note)
    ledger = Ledger(opened, shared=opened.design.shard is not None)
    # The table is checked first, so that a folder of another study is refused before hours of work. So are the runs of other
    # shards, which must have the same settings.
    open_runs = {run for run in opened.runs if store.recalled(run_folder(opened, run), run_record(opened, run)) is None}
    unfinished = [run for run in opened.own if run in open_runs]
    keep_plan(opened, ledger.runs, ledger.complete_seeds)
    with editing(opened.design.out):
        keep_run_list(opened.design.out, [run_folder(opened, run).name for run in opened.runs], opened.design.steps)
    clock = progress.clock
    if opened.design.shard:
        _share_baselines(opened, store.without_waiting(), progress)
    with clock.part("leaks"):
        search_leaks(opened, store, progress)
    with clock.part("baselines"):
        pixels = evaluate_pixels(opened, store, progress)
        initial = evaluate_initial(opened, store, progress)
    ledger.add([*baseline_rows(opened, pixels, PIXELS, {}), *initial_rows(opened, initial)])
    with clock.part("shift"):
        task_shifts = measure_shifts(opened, store, progress)
    if unfinished and opened.memory_note:
        progress.note(opened.memory_note)
    ended = _EndedRuns(opened, store, progress, ledger, task_shifts, initial)
    with (
        progress.study(len(opened.own), [run.learner for run in unfinished], opened.weights),
        _following(progress) as following,
    ):
        for number, run in enumerate(opened.own, 1):
            started = time.monotonic()
            shift = task_shifts[opened.task.name][run.source]
            outcome = train_run(opened, store, run, shift, f"{number}/{len(opened.own)}", progress)
            following.start(functools.partial(ended.add, run, number, started, outcome))
            # The next run needs the memory.
            del outcome
    for learner, seed in further_untrained(opened, [key[:2] for key in ended.untrained]):
        ended.untrained_of(learner, seed)
    if opened.observation.profiler:
        progress.note(opened.observation.profiler.summary())
    results = stored_results(opened, dict(ended.failed))
    if opened.design.shard:
        # Another shard may have been killed between the end of a run and its row.
        ledger.add(all_rows(results))
    return results


def _share_baselines(opened: Opened, store: Store, progress: Progress) -> None:
    """Computes what all shards need and what no other shard computes now, so that shards divide this work among them."""
    shift = opened.design.shift
    references = range(shift.seeds if shift.images else 0)
    parts: list[tuple[str, Callable[[], Any]]] = [
        *(("shift", functools.partial(trained_reference, opened, store, progress, seed)) for seed in references),
        ("baselines", functools.partial(evaluate_pixels, opened, store, progress)),
        ("leaks", functools.partial(search_leaks, opened, store, progress)),
    ]
    first = (opened.design.shard.number - 1) % len(parts)
    for name, compute in parts[first:] + parts[:first]:
        with progress.clock.part(name), contextlib.suppress(LockedError):
            compute()


class _Following:
    """The work that follows the training of a run, one run at a time: beside the training of the next run, or at once.

    Args:
      clock: clock of the command.
      beside: whether the work is done on another thread.
    """

    def __init__(self, clock: Clock, beside: bool):
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "evaluation") if beside else None
        self._work: Future | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Starts the work of a run after that of the previous run, so that memory holds two runs at most."""
        self.wait()
        # Each run compiles its own programs, and the number of programs in a process is limited. None runs at this point.
        bound_programs()
        if self._thread is None:
            work()
        else:
            self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Waits for the work that was started; raises its error."""
        if self._work is not None:
            with self._clock.part(EVALUATING):
                self._work.result()
            self._work = None

    def close(self) -> None:
        """Waits for the work that was started; does not raise its error."""
        if self._thread is not None:
            self._thread.shutdown()


@contextlib.contextmanager
def _following(progress: Progress) -> Iterator[_Following]:
    """Yields where to start the work that follows training. It is completed after any error, but cancelled by an interrupt."""
    following = _Following(progress.clock, _is_free())
    try:
        yield following
        following.wait()
    except (KeyboardInterrupt, SystemExit, StoppedError):
        progress.cancel()
        raise
    finally:
        following.close()


def _is_free() -> bool:
    """Returns whether the device has time to evaluate a run while it trains another one."""
    # A CPU trains on all of its cores. With several devices, two threads may start programs in another order on each of them,
    # and programs that wait for each other would never end.
    return jax.default_backend() != "cpu" and jax.device_count() == 1


class _EndedRuns:
    """Runs whose training has ended, in the order of the study: their encoders, scores, rows of the table, and failures.

    Attributes:
      failed: runs that raised an error, with the reason.
      untrained: scores of untrained encoders, by method, encoder and seed.
    """

    def __init__(
        self, opened: Opened, store: Store, progress: Progress, ledger: Ledger, shifts: TaskShifts, initial: InitialScores
    ):
        self._opened = opened
        self._store = store
        self._progress = progress
        self._ledger = ledger
        self._task_shifts = shifts
        self._initial = initial
        self._last = 0.0
        self.failed: list[tuple[Run, str]] = []
        self.untrained: dict[tuple[str, str, int], EvaluatedEncoder] = {}

    def add(self, run: Run, number: int, started: float, outcome: Callable[[], dict[str, Any]]) -> None:
        """Evaluates a run and adds its rows to the table.

        Args:
          run: run of the study.
          number: number of the run in the study.
          started: time at which the run started.
          outcome: function that keeps the trained encoder and returns the fields of `Trained`, or raises the error of the
            training.
        """
        opened = self._opened
        count = len(opened.own)
        seconds = None
        with _failing(opened, run, self._progress) as failures:
            learner = opened.learner(run)
            untrained = self.untrained_of(learner, run.seed)
            heartbeat = Heartbeat(run_folder(opened, run), learner.steps, learner.batch_size)
            with self._progress.evaluating(f"{number}/{count} {describe_run(opened, run)}", heartbeat) as work:
                trained = Trained(**outcome())
                with self._progress.clock.part(EVALUATING):
                    evaluated = evaluate_run(opened, self._store, run_folder(opened, run), work.on_progress)
            finished = FinishedRun(run, trained, evaluated)
            self._ledger.add(run_rows(opened, finished, untrained, self._task_shifts, self._initial))
            heartbeat.finish()
            # The time between the ends of two runs is what another run adds to the study.
            seconds = time.monotonic() - max(started, self._last) if work.done else None
        self.failed += [(run, reason) for reason in failures]
        self._last = time.monotonic()
        self._progress.ended(number, count, run.learner, seconds)
        if not failures:
            self._progress.say_scores(describe_run(opened, run), evaluated.scores[opened.task.name])

    def untrained_of(self, learner: Learner, seed: int) -> EvaluatedEncoder:
        """Returns the scores of the encoder that a run starts from; adds their rows to the table."""
        key = (*learner.key, seed)
        if key not in self.untrained:
            with self._progress.clock.part("baselines"):
                self.untrained[key] = evaluate_untrained(self._opened, self._store, learner, seed, self._progress)
            start = untrained_record(learner, seed)
            self._ledger.add(baseline_rows(self._opened, self.untrained[key], UNTRAINED, start))
        return self.untrained[key]


def read_results(opened: Opened) -> Results:
    """Returns the results in a study's folder; computes nothing. The results name the missing runs.

    Raises:
      OtherRecordError: the folder has a run with other settings.
      LedgerError: the results table was edited, or has another budget.
      NotStoredError: no run is finished.
    """
    out = opened.design.out
    require_budget(read_ledger(out), opened.design.budget.samples, out)
    try:
        results = stored_results(opened)
    except NotStoredError:
        results = None
    if results is None or not results.runs:
        raise NotStoredError(f"No run of this study is finished in {out}; the same command without --report_only runs them.")
    return results


def train_run(
    opened: Opened, store: Store, run: Run, shift: MeasuredShift, number: str, progress: Progress
) -> Callable[[], dict[str, Any]]:
    """Trains a run from its latest checkpoint, if it has one; does nothing if the run is finished.

    Args:
      opened: the study.
      store: store that keeps the run.
      run: run of the study.
      shift: shift of the run's candidate to the first task, for the card.
      number: number of the run in the study, for the progress.
      progress: progress of the study.

    Returns:
      A function that keeps the encoder with a card, and returns the fields of `Trained`; if the training raised an error that
      does not stop the study, the function raises it.
    """
    folder = run_folder(opened, run)
    record = run_record(opened, run)
    learner = opened.learner(run)
    try:
        with contextlib.ExitStack() as held:
            # `store.remembered` would work too, but a direct call keeps the path from here to the training step short.
            result = store.recalled(folder, record)
            if result is None:
                held.enter_context(store.locked(folder))
                result = store.recalled(folder, record)
            if result is not None:
                return functools.partial(dict, result)
            store.begin(folder, record)
            started = time.monotonic()
            # Reading batches and writing checkpoints are part of training.
            with (
                progress.training(f"{number} {describe_run(opened, run)}", learner.steps) as work,
                progress.clock.part(TRAINING),
            ):
                reader = opened.reader(opened.candidate(run).mixture, run.seed, run.draw)
                counted = learner.counted(progress.clock, work.on_step)
                observation = dataclasses.replace(opened.observation, note=progress.note)
                watched = {"online": opened.online, "stop": progress.stop, "observation": observation}
                state = train(opened.training(run), reader, run.seed, folder, counted, placed=opened.placed, **watched)
            # No other process may train the run before its encoder is kept.
            until_kept = held.pop_all()
    except Exception as error:
        if _stops(error):
            raise
        # The signal may have ended a process that reads images, which is not a failure of the run.
        if progress.stop.requested:
            progress.stop.end()
        return functools.partial(_raise, error)
    seconds = round(time.monotonic() - started, 2)
    # The state of the optimiser is not kept, since the next run needs the memory.
    return functools.partial(_keep, opened, store, run, shift, state.variables, seconds, until_kept)


def _raise(error: Exception) -> NoReturn:
    raise error


def _keep(
    opened: Opened,
    store: Store,
    run: Run,
    shift: MeasuredShift,
    variables: Any,
    seconds: float,
    held: contextlib.ExitStack,
) -> dict[str, Any]:
    folder = run_folder(opened, run)
    trained = cluster.first("a trained run", lambda: _trained(folder, opened.candidate(run).mixture.unique))
    card = encoder_card(opened, run, shift, trained)
    with held:
        save_encoder(encoder_of(opened.learner(run).training.method, variables, opened.canvas, card), folder / ENCODER)
        # The card does not contain the time, so that equal runs give equal files.
        return store.finish(folder, trained | {"seconds": seconds})


def _trained(folder: Path, unique: int) -> dict[str, Any]:
    """Returns the fields of `Trained` that the files of a run's folder give."""
    first, last = loss_trend(folder / METRICS)
    broken = len(read_broken(folder / BROKEN))
    lines = read_metrics(folder / METRICS)
    found = {"skipped": skipped_steps(lines), "collapse": final_collapse(lines)}
    trained = {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": unique - broken}
    # What did not happen is not kept, as in results of earlier versions.
    return trained | {name: value for name, value in found.items() if value}


@contextlib.contextmanager
def _failing(opened: Opened, run: Run, progress: Progress) -> Iterator[list[str]]:
    """Records the error of a run and appends the reason to the list that it yields. Errors that stop the study are raised."""
    folder = run_folder(opened, run)
    reasons: list[str] = []
    try:
        yield reasons
        for name in (FAILED, ERROR_LOG):
            (folder / name).unlink(missing_ok=True)
    except Exception as error:
        if _stops(error):
            raise
        reason = keep_failure(folder, error)
        progress.note(f"FAILED {describe_run(opened, run)}: {reason} (details: {folder / ERROR_LOG})")
        reasons.append(reason)


def _stops(error: Exception) -> bool:
    """Returns whether no run can continue after an error; any other error concerns one run."""
    # On a full disk the next run would fail too, and the failure could not be written.
    return isinstance(error, _STOPS) or (isinstance(error, OSError) and error.errno in DISK_FULL)
