"""Shards of a study: who may use a folder, who computes what, and one table that is the same whoever wrote it."""

import collections
import dataclasses
import errno
import json
import os
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.clock import Clock
from sslshift.reporting.ledger import append, fingerprint, read_ledger
from sslshift.shards import LOCKS, StudyShard, deal, occupied, parse_shard, reporting
from sslshift.storage import LockedError, OtherRecordError, Store, lock
from sslshift.study import cli, runner
from sslshift.study.cost import keep_timing, read_timings
from sslshift.study.declare import Study
from sslshift.study.opened import open_study
from sslshift.study.results import run_folder, run_record

TINY = Study(
    sources="bundled:mnist@40,60; synthetic:noise?size=80@50",
    downstream="bundled:mnist",
    downstream_test="bundled:mnist/test",
    evaluations="linear",
    labelled=60,
    untrained_seeds=3,
    budget=64,
    batch_size=32,
    seeds=2,
    head="16,8",
    optimiser="adamw",
    learning_rate=1e-3,
    shift_images=60,
    reference_seeds=2,
)


def test_a_text_that_is_no_shard_names_no_folder(tmp_path):
    command = [sys.executable, "-m", "experiments.quickstart", f"--out={tmp_path / 'a' / 'b'}", "--shard=../../x/1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "Expected --shard=i/n" in done.stderr
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == ["a/b/error.log"]


@pytest.mark.parametrize(
    "text", ["3/2", "0/2", "1/0", "0/0", "x", "1", "1/", "/2", "-1/2", "1/2/3", "1.0/2", "1/2 x", "1/9999999"]
)
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(
        ValueError, match=r"^Expected --shard=i/n with whole numbers and i from 1 to n, e\.g\. 1/4 to 4/4, got '"
    ):
        parse_shard(text)


def test_a_shard_is_parsed():
    assert parse_shard(" 12 / 20 ") == StudyShard(12, 20)
    assert str(StudyShard(1, 1)) == "1/1"
    assert parse_shard("") is None


@given(
    methods=st.integers(1, 7),
    candidates=st.integers(1, 9),
    seeds=st.integers(1, 5),
    count=st.integers(1, 12),
)
def test_each_shard_has_its_share_of_every_method_and_candidate(methods, candidates, seeds, count):
    kinds = [(method, candidate) for _ in range(seeds) for method in range(methods) for candidate in range(candidates)]
    dealt = deal(kinds, count)

    def difference(chosen):
        runs = collections.Counter(shard for shard, kind in zip(dealt, kinds, strict=True) if chosen(kind))
        shares = [runs[shard] for shard in range(1, count + 1)]
        return max(shares) - min(shares)

    assert all(difference(lambda kind, method=method: kind[0] == method) <= 1 for method in range(methods))
    assert difference(lambda kind: True) <= 2
    # Two shards of one method: no source is left to one of them, as it would be if every second run were taken.
    if count == 2 and methods == 1 and seeds > 1:
        assert all(difference(lambda kind, each=each: kind[1] == each) <= 1 for each in range(candidates))
    assert deal(kinds[: len(kinds) // 2], count) == dealt[: len(kinds) // 2]


def test_shards_are_the_whole_grid_and_share_no_run():
    opened = open_study(dataclasses.replace(TINY, method="simclr,byol", for_method=("byol: predictor=16",), seeds=3))
    assert opened.own == opened.runs

    def shard(number, runs):
        return dataclasses.replace(
            opened, design=dataclasses.replace(opened.design, shard=StudyShard(number, 4)), runs=runs
        ).own

    own = [run for number in range(1, 5) for run in shard(number, opened.runs)]
    assert sorted(map(dataclasses.astuple, own)) == sorted(map(dataclasses.astuple, opened.runs))
    assert len(own) == 18
    # The order of the grid changes nothing, nor do further seeds.
    assert set(shard(2, opened.runs[::-1])) == set(shard(2, opened.runs))
    assert shard(2, tuple(run for run in opened.runs if run.seed < 2)) == tuple(
        run for run in shard(2, opened.runs) if run.seed < 2
    )


def test_a_folder_belongs_to_one_study_or_to_its_shards(tmp_path):
    out = tmp_path / "out"
    one, two, other = StudyShard(1, 2), StudyShard(2, 2), StudyShard(1, 3)
    me = rf"process {os.getpid()} on \S+ since 20"
    with occupied(out, one), occupied(out, two), occupied(out, other):
        with pytest.raises(RuntimeError, match=rf"^--shard=2/2 of .*out is being run by {me}.*; give another shard\.$"):
            occupied(out, two).__enter__()
        with pytest.raises(RuntimeError, match=rf"out is in use by {me}.*, which runs a shard of a study\. Wait until all"):
            occupied(out, None).__enter__()
    with occupied(out, None):
        for shard in (None, one):
            with pytest.raises(RuntimeError, match=rf"out is in use by {me}.*: two studies cannot write to one folder\. Wait"):
                occupied(out, shard).__enter__()
    with occupied(out, one):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_reported_and_no_other_kind_of_lock_is_used(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(
        ValueError, match=r"lock: the file system has no locks\. Use a folder on another file system; NFS needs"
    ):
        lock(tmp_path / "lock").__enter__()


def test_a_result_is_computed_by_one_of_several_processes(tmp_path):
    notes = []
    store = Store(locks=tmp_path / LOCKS, note=notes.append)
    begun, computed = threading.Event(), []

    def slow():
        computed.append(1)
        begun.set()
        for _ in range(300):
            # The other one looks again after a second, and says so after two.
            if notes:
                break
            threading.Event().wait(0.05)
        return {"sum": 3}

    first = threading.Thread(target=lambda: store.remembered(tmp_path / "a/sum", {"x": 1}, slow))
    first.start()
    begun.wait()
    with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
        store.without_waiting().remembered(tmp_path / "a/sum", {"x": 1}, dict)
    # Other results are not locked.
    assert store.without_waiting().remembered(tmp_path / "a/other", {"x": 1}, lambda: {"sum": 4}) == {"sum": 4}
    assert store.remembered(tmp_path / "a/sum", {"x": 1}, lambda: computed.append(2)) == {"sum": 3}
    first.join()
    assert computed == [1]
    assert notes[0].startswith(f"Waiting for a/sum, which is computed by process {os.getpid()} on ")
    assert list((tmp_path / LOCKS).iterdir()) == []


def test_work_that_failed_is_done_by_the_next_process(tmp_path):
    store = Store(locks=tmp_path / LOCKS)
    with pytest.raises(ZeroDivisionError):
        store.remembered(tmp_path / "sum", {}, lambda: 1 / 0)
    assert store.without_waiting().remembered(tmp_path / "sum", {}, lambda: {"sum": 3}) == {"sum": 3}


@settings(deadline=None, max_examples=25)
@given(order=st.permutations(range(6)), known=st.sets(st.integers(0, 5)))
def test_rows_stand_in_the_order_of_the_grid_whoever_adds_them(tmp_path_factory, order, known):
    out = tmp_path_factory.mktemp("table")
    rows = [{"kind": "run", "source": str(each), "fingerprint": fingerprint({"row": each})} for each in range(6)]
    places = {row["fingerprint"]: place for place, row in enumerate(rows)}
    # Rows of other settings, which were there before, stay in front.
    earlier = [{"kind": "run", "source": name, "fingerprint": fingerprint({"row": name})} for name in "ab"]
    table = append([], earlier, out)
    table = append(table, [rows[each] for each in sorted(known)], out, places)
    for each in order:
        table = append(read_ledger(out), [rows[each]], out, places)
    assert [row["source"] for row in read_ledger(out)] == ["a", "b", *map(str, range(6))]


def test_the_timings_of_calls_at_the_same_time_are_all_kept(tmp_path):
    clocks = [Clock(), Clock()]
    clocks[0].samples, clocks[1].samples = 10, 20
    with keep_timing(tmp_path, clocks[0]) as first, keep_timing(tmp_path, clocks[1]) as second:
        assert [each.samples for each in first()] == [10]
        assert [each.samples for each in second()] == [10, 20]
        assert [each.samples for each in first()] == [20, 10]
    assert sorted(each.samples for each in read_timings(tmp_path)) == [10, 20]


def test_a_shard_with_other_settings_is_refused_before_it_computes_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "search_leaks", lambda *_: pytest.fail("computed"))
    study = dataclasses.replace(TINY, out=str(tmp_path))
    first = open_study(dataclasses.replace(study, shard="1/2"))
    folder = run_folder(first, first.own[0])
    Store().begin(folder, run_record(first, first.own[0]))
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(OtherRecordError, match=r"weight_decay: 0.0001 there, 0.1 now"):
        cli.run(dataclasses.replace(study, shard="2/2", weight_decay=0.1))


# A process that runs a shard, and writes down each result that it finishes. With a fourth argument it kills itself when it has
# trained that many runs.
SHARD = """
    import json, os, signal, sys
    from sslshift import storage
    from sslshift.study import cli, runner
    from sslshift.study.declare import Study

    study, done, after = Study(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    finish, keep, trained = storage.Store.finish, runner._keep, []

    def finish_and_say(self, folder, result):
        with open(done, "a") as file:
            file.write(f"{os.path.relpath(folder, study.out)}\\n")
        return finish(self, folder, result)

    def keep_or_die(*args):
        trained.append(1)
        if len(trained) == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return keep(*args)

    storage.Store.finish, runner._keep = finish_and_say, keep_or_die
    cli.run(study)
"""


def start(study, done, after=0):
    values = {name: each for name, each in dataclasses.asdict(study).items() if each != getattr(TINY, name)}
    fields = json.dumps({**{name: each for name, each in dataclasses.asdict(TINY).items() if each != ()}, **values})
    command = [sys.executable, "-c", textwrap.dedent(SHARD), fields, str(done), str(after)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_shards_with_a_kill_write_what_one_process_writes(tmp_path, capsys):
    cli.run(dataclasses.replace(TINY, out=str(tmp_path / "one")))
    out, done = tmp_path / "three", tmp_path / "done"
    shards = [dataclasses.replace(TINY, out=str(out), shard=f"{number}/3") for number in (1, 2, 3)]
    processes = []
    try:
        # The second shard dies when its second run is trained, before that run is kept.
        processes += [start(study, done, after=2 if number == 1 else 0) for number, study in enumerate(shards)]
        texts = [process.communicate(timeout=800)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, -9, 0], texts
        with pytest.raises(AssertionError):
            assert (out / "results.csv").read_bytes() == (tmp_path / "one/results.csv").read_bytes()
        # The dead shard is missing, which the others say; its command goes on where it was.
        with reporting(out, wait=False):
            cli.report_only(dataclasses.replace(TINY, out=str(out), shard="1/3"))
        told = capsys.readouterr().out
        assert f"process {os.getpid()} on " in told
        assert "writes the report at this moment; --report_only writes it later." in told
        assert "1 of 6 runs not there yet (of --shard=2/3): " in told
        processes.append(start(shards[1], done))
        assert processes[-1].communicate(timeout=800)[0].count("wrote ") == 5
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for name in ("results.csv", "results.parquet", "scores.csv", "plan.json"):
        assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes(), name
    finished = done.read_text().splitlines()
    assert len(finished) == len(set(finished))
    assert sorted(finished) == sorted(
        str(path.parent.relative_to(tmp_path / "one")) for path in tmp_path.glob("one/**/result.json")
    )
    encoders = {path.relative_to(out): path.read_bytes() for path in out.glob("runs/*/encoder.safetensors")}
    assert encoders == {each: (tmp_path / "one" / each).read_bytes() for each in encoders}
    assert len(encoders) == 6
    # Three calls ended; the killed one left no entry.
    assert len(json.loads((out / "timing.json").read_text())["calls"]) == 3

    # A row that a kill kept out of the table comes back where it was.
    lines = (out / "results.csv").read_bytes().splitlines(keepends=True)
    (out / "results.csv").write_bytes(b"".join(lines[:4] + lines[5:]))
    (out / "results.parquet").unlink()
    cli.report_only(dataclasses.replace(TINY, out=str(out)))
    assert (out / "results.csv").read_bytes() == b"".join(lines)
