"""What follows the training of a run is done beside the training of the next one, with the same results, failures and order.

Most tests use a finished study, whose runs are read in place of being computed: the tests delay and break what they need.
"""

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import jax
import pytest
from rich.console import Console
from tiny_studies import tiny

from sslshift.reporting.ledger import LedgerError
from sslshift.stopping import StoppedError
from sslshift.study import runner
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress
from sslshift.study.results import run_folder
from sslshift.training.checkpoints import NotWrittenError
from sslshift.training.guards import NonFiniteError

FLAGS = ("--sources=bundled:mnist@40,60", "--evaluations=linear", "--labelled=60", "--budget=64", "--batch_size=32")
# Long enough for a busy machine; a test that waits for it has failed.
PATIENCE = 60


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished study of four runs, one after the other."""
    out = tmp_path_factory.mktemp("overlap") / "out"
    runner.run_study(open_study(study(out)), Progress(Console(quiet=True)))
    return out


def study(out):
    return tiny(*FLAGS, "--shift_images=0", "--head=16,8", f"--out={out}")


@pytest.fixture
def opened(done, tmp_path, monkeypatch):
    """That study without its table, whose next command evaluates beside training."""
    monkeypatch.setattr(runner, "_is_free", lambda: True)
    out = tmp_path / "out"
    shutil.copytree(done, out)
    for name in ("results.csv", "results.parquet"):
        (out / name).unlink()
    return open_study(study(out))


@pytest.fixture
def hooked(opened, monkeypatch):
    """Calls functions of a test, given by the number of a run, before its training or its evaluation."""
    hooks = {"train": {}, "evaluate": {}}
    folders = [run_folder(opened, run) for run in opened.runs]
    train = runner.train_run
    evaluate = runner.evaluate_run

    def train_run(opened, store, run, *args):
        outcome = train(opened, store, run, *args)
        try:
            hooks["train"].get(opened.runs.index(run), lambda: None)()
        except NonFiniteError as error:
            # As `train_run` itself does with an error of one run.
            raised = error

            def outcome():
                raise raised

        return outcome

    def evaluate_run(opened, store, folder, on_progress):
        hooks["evaluate"].get(folders.index(folder), lambda on_progress: None)(on_progress)
        return evaluate(opened, store, folder, on_progress)

    monkeypatch.setattr(runner, "train_run", train_run)
    monkeypatch.setattr(runner, "evaluate_run", evaluate_run)
    return hooks


def run_it(opened):
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console)
    results = runner.run_study(opened, progress)
    # Counted apart: they ran beside the parts of the main thread.
    assert set(progress.clock.timing().overlapped) <= {"evaluating", "baselines"}
    return results, console.file.getvalue()


def runs(out):
    with (out / "results.csv").open() as file:
        return [(row["unique"], row["seed"]) for row in csv.DictReader(file) if row["kind"] == "run"]


def test_a_run_is_evaluated_beside_the_training_of_the_next_one(opened, hooked, done, monkeypatch):
    """Each evaluation waits for the next training to begin, and no more than one evaluation waits."""
    begun = [threading.Event() for _ in opened.runs]
    ended = [threading.Event() for _ in opened.runs]
    threads = set()

    def evaluating(number, on_progress):
        threads.add(threading.current_thread())
        if number + 1 < len(begun):
            assert begun[number + 1].wait(PATIENCE)
        ended[number].set()

    def training(number):
        begun[number].set()
        threads.add(threading.current_thread())
        if number > 1:
            assert ended[number - 2].is_set()

    computing = threading.Lock()
    add = runner._EndedRuns.add

    def locked_add(*args):
        with computing:
            return add(*args)

    def bound_programs():
        # The programs of an evaluation must not be discarded while it runs.
        assert computing.acquire(blocking=False)
        computing.release()

    monkeypatch.setattr(runner._EndedRuns, "add", locked_add)
    monkeypatch.setattr(runner, "bound_programs", bound_programs)
    for number in range(len(opened.runs)):
        hooked["train"][number] = lambda number=number: training(number)
        hooked["evaluate"][number] = lambda on_progress, number=number: evaluating(number, on_progress)
    results, said = run_it(opened)
    assert len(threads) == 2
    assert [each.run for each in results.runs] == list(opened.runs)
    assert set(results.untrained) == {(*run.learner, run.seed) for run in opened.runs}
    assert (opened.design.out / "results.csv").read_bytes() == (done / "results.csv").read_bytes()
    lines = [line.split(":")[0] for line in said.splitlines() if line.startswith("mnist")]
    assert lines == [f"mnist N={run.unique} seed {run.seed}" for run in opened.runs]


def test_failures_are_recorded_for_their_runs_in_order(opened, hooked):
    """The second run fails in training while the first one is still evaluated, which then fails too."""
    failed = threading.Event()

    def fail_training():
        failed.set()
        raise NonFiniteError("Step 2 gave nan.")

    def fail_evaluation(on_progress):
        assert failed.wait(PATIENCE)
        raise ValueError("The encoder is broken.")

    hooked["train"][1] = fail_training
    hooked["evaluate"][0] = fail_evaluation
    results, _ = run_it(opened)
    reasons = ("ValueError: The encoder is broken.", "NonFiniteError: Step 2 gave nan.")
    assert results.failed == tuple(zip(opened.runs[:2], reasons, strict=True))
    assert [each.run for each in results.runs] == list(opened.runs[2:])
    for run, name in zip(opened.runs, ("fail_evaluation", "fail_training", "", ""), strict=True):
        folder = run_folder(opened, run)
        assert (folder / "failed.json").exists() == bool(name)
        assert not name or name in (folder / "error.log").read_text()
    assert runs(opened.design.out) == [("40", "1"), ("60", "1")]
    # The same command mends both.
    hooked["train"].clear()
    hooked["evaluate"].clear()
    results, _ = run_it(opened)
    assert not results.failed
    assert sorted(runs(opened.design.out)) == [("40", "0"), ("40", "1"), ("60", "0"), ("60", "1")]
    assert not list(opened.design.out.rglob("failed.json"))


@pytest.mark.parametrize("error", [LedgerError("edited"), OSError(28, "No space left on device")], ids=["ledger", "disk"])
def test_an_error_in_an_evaluation_that_stops_the_study(opened, hooked, error):
    def fail(on_progress):
        raise error

    trained = []
    hooked["evaluate"][1] = fail
    for number in range(len(opened.runs)):
        hooked["train"][number] = lambda number=number: trained.append(number)
    with pytest.raises(type(error), match=str(error.args[-1])):
        run_it(opened)
    assert trained == [0, 1, 2]
    assert runs(opened.design.out) == [("40", "0")]
    assert not list(opened.design.out.rglob("failed.json"))


def test_an_error_in_training_that_stops_the_study_takes_nothing_from_the_evaluation(opened, hooked):
    stopped = threading.Event()

    def stop():
        stopped.set()
        raise NotWrittenError("The checkpoint could not be written.")

    hooked["train"][1] = stop
    hooked["evaluate"][0] = lambda on_progress: stopped.wait(PATIENCE)
    with pytest.raises(NotWrittenError):
        run_it(opened)
    assert runs(opened.design.out) == [("40", "0")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, StoppedError])
def test_an_interrupt_or_a_signal_ends_the_evaluation_at_its_next_report(error, opened, hooked):
    evaluating = threading.Event()

    def interrupt():
        assert evaluating.wait(PATIENCE)
        raise error

    def evaluate(on_progress):
        evaluating.set()
        for step in range(PATIENCE * 100):
            on_progress("steps", step, PATIENCE * 100)
            threading.Event().wait(0.01)

    hooked["train"][1] = interrupt
    hooked["evaluate"][0] = evaluate
    with pytest.raises(error):
        run_it(opened)
    assert runs(opened.design.out) == []
    assert not list(opened.design.out.rglob("failed.json"))


@pytest.mark.parametrize(("backend", "devices", "free"), [("gpu", 1, True), ("gpu", 8, False), ("cpu", 1, False)])
def test_only_a_single_accelerator_is_free(monkeypatch, backend, devices, free):
    """Programs on several devices could wait for each other if two threads start them."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    assert runner._is_free() == free


SCRIPT = """
    import os, signal, sys, time
    sys.path.insert(0, {tests!r})
    from rich.console import Console
    from sslshift.study import runner
    from sslshift.study.opened import open_study
    from sslshift.study.progress import Progress
    from test_overlap import study

    evaluate = runner.evaluate_run

    def evaluate_run(opened, store, folder, on_progress):
        second, third = (runner.run_folder(opened, run) for run in opened.runs[1:3])
        if {kill} and folder == second:
            while not list((third / "checkpoints").glob("[0-9]")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(opened, store, folder, on_progress)

    runner.evaluate_run = evaluate_run
    for beside, out in ((True, {out!r}), (False, {out!r} + "-in-turn")):
        runner._is_free = lambda: beside
        runner.run_study(open_study(study(out)), Progress(Console(quiet=True)))
"""


@pytest.mark.slow
def test_a_study_that_is_killed_ends_with_the_table_of_one_in_turn(tmp_path):
    """Killed while the second run is evaluated and the third one trained; on one device, as both then compute."""
    out = tmp_path / "out"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}

    def call(kill):
        script = textwrap.dedent(SCRIPT.format(tests=os.path.dirname(__file__), out=str(out), kill=kill))
        return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)

    killed = call(kill=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert runs(out) == [("40", "0")]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    again = call(kill=False)
    assert again.returncode == 0, again.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "results.csv").read_bytes() == (tmp_path / "out-in-turn/results.csv").read_bytes()
