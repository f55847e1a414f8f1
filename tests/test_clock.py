"""Seconds of a command by part: they sum to the whole, and a second is counted once."""

import json
import threading

import jax
import pytest

from sslshift import clock as clocks
from sslshift.clock import Clock, Timing, process_age
from sslshift.study.cost import TIMING, keep_timing, read_timings, timing_table


class FakeTime:
    """Time that passes only when a test says so."""

    def __init__(self):
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def passing(monkeypatch):
    fake = FakeTime()
    monkeypatch.setattr(clocks, "time", fake)

    def wait(seconds):
        fake.now += seconds

    return wait


def test_an_inner_part_is_not_counted_in_the_outer_one(passing):
    clock = Clock(before=4.0)
    passing(1)
    with clock.part("shift"):
        passing(2)
        with clock.part("training"):
            passing(8)
        passing(16)
    passing(32)
    timing = clock.timing()
    assert timing.parts == {"start": 4, "other": 1 + 32, "shift": 2 + 16, "training": 8}
    assert timing.seconds == 4 + 1 + 2 + 8 + 16 + 32
    assert timing.efficiency == 8 / 63


def fail_after(seconds, passing):
    passing(seconds)
    raise RuntimeError


def test_an_open_part_and_a_part_that_raised_are_counted(passing):
    clock = Clock()
    with pytest.raises(RuntimeError), clock.part("a"):
        fail_after(3, passing)
    with clock.part("b"):
        passing(5)
        assert clock.timing().parts == {"other": 0, "a": 3, "b": 5}
        passing(7)
    assert clock.timing().parts == {"other": 0, "a": 3, "b": 12}


def test_parts_of_other_threads_are_kept_apart(passing):
    clock = Clock()

    def work():
        with clock.part("evaluating"):
            passing(5)

    with clock.part("training"):
        passing(1)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    timing = clock.timing()
    assert timing.parts == {"other": 0, "training": 6}
    assert timing.overlapped == {"evaluating": 5}
    assert timing.seconds == 6
    assert "beside them evaluating 5.0 s" in timing.sentence()


def test_compilation_is_subtracted_from_its_part_and_an_inner_span_counts_once(passing):
    clock = Clock()
    with clock.part("training"):
        passing(100)
        # A trace of 30 s with a program of 5 s inside, then a compilation of 20 s.
        clock._on_span("/jax/core/compile/backend_compile_duration", 12.0, 17.0)
        clock._on_span("/jax/core/compile/jaxpr_trace_duration", 10.0, 40.0)
        clock._on_span("/jax/core/compile/backend_compile_duration", 40.0, 60.0)
        clock._on_span("/jax/elsewhere", 0.0, 99.0)
        clock._on_event("/jax/compilation_cache/cache_hits")
        clock._on_event("/jax/compilation_cache/cache_misses")
    timing = clock.timing()
    assert timing.parts == {"other": 0, "training": 50, "compiling": 50}
    assert (timing.compiled, timing.from_cache) == (1, 1)


def test_compilations_are_measured_while_the_clock_runs():
    def fresh():
        return jax.jit(lambda x: x * 3 + 1)(jax.numpy.arange(7.0))

    clock = Clock()
    with clock.running(), clock.part("evaluating"):
        fresh()
        timing = clock.timing()
    assert timing.compiled + timing.from_cache >= 1
    assert timing.parts["compiling"] > 0
    fresh()
    assert clock.timing().compiled == timing.compiled


def test_sentence():
    parts = {"start": 3.04, "training": 166.4, "evaluating": 1200.0, "ledger": 0.04}
    timing = Timing(parts, {}, 7, 2, 1_664_000, 0.0)
    assert timing.sentence() == "1,369 s: evaluating 1,200 s, training 166 s (12%), start 3.0 s; 10,000 samples/s"
    kind = jax.devices()[0].device_kind
    assert timing._replace(at_peak=83.2).sentence().endswith(f"; 10,000 samples/s; 50% of the peak of {kind}")
    assert Timing({"other": 0.01}, {}, 0, 0, 0, 0.0).sentence() == "0.0 s"


def test_the_age_of_a_process_grows():
    first = process_age()
    assert 0 <= first <= process_age() < 1e6


def call(seconds, samples, compiled=1):
    return Timing({"start": 1.0, "training": seconds}, {"evaluating": 2.0}, compiled, 3, samples, 0.0)


def test_table_sums_the_calls_that_trained(passing):
    idle = Timing({"start": 50.0}, {}, 0, 9, 0, 0.0)
    table = timing_table([call(9.0, 100), idle, call(29.0, 900), idle])
    assert [tuple(line) for line in table.lines] == [
        ("training", "38.0", "95.0"),
        ("start", "2.0", "5.0"),
        ("all", "40.0", "100.0"),
    ]
    assert "2 programs were compiled and 6 were read" in table.note
    assert "26 samples/s, 95% of all seconds" in table.note
    assert "evaluating 4.0 s" in table.note
    assert timing_table([idle]).lines[0][0] == "start"
    assert timing_table([]).lines == []


def test_every_call_is_kept_also_after_an_error(tmp_path, passing):
    clock = Clock(before=2.0)
    clock.samples = 640
    with pytest.raises(RuntimeError), keep_timing(tmp_path, clock), clock.part("training"):
        fail_after(4, passing)
    with keep_timing(tmp_path, Clock(before=1.0)):
        pass
    first, second = read_timings(tmp_path)
    assert first == Timing({"training": 4, "start": 2}, {}, 0, 0, 640, 0.0)
    assert second.parts == {"start": 1}
    kept = json.loads((tmp_path / TIMING).read_text())["calls"]
    assert kept[0]["samples_per_second"] == 160
    assert kept[0]["efficiency"] == 0.667
    assert kept[1]["efficiency"] is None


def test_a_later_call_that_trains_nothing_reports_the_same_table(tmp_path, passing):
    clock = Clock(before=2.0)
    with keep_timing(tmp_path, clock) as keep:
        with clock.part("training"):
            passing(3)
            clock.samples = 300
        first = timing_table(keep())
        # The report compiles and waits.
        passing(5)
        clock._on_span("/jax/core/compile/backend_compile_duration", 1.0, 2.0)
    assert read_timings(tmp_path)[0].parts == {"training": 3, "start": 2, "reporting": 5}
    with keep_timing(tmp_path, Clock(before=9.0)) as keep:
        assert timing_table(keep()) == first
    assert timing_table(read_timings(tmp_path)) == first
    assert [line[0] for line in first.lines] == ["training", "start", "all"]
    assert first.lines[-1][1] == "5.0"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"calls": 3}', '{"calls": [{"parts": 3}, 4]}'])
def test_a_damaged_file_does_not_stop_a_study(tmp_path, text):
    (tmp_path / TIMING).write_text(text)
    assert read_timings(tmp_path) == []
    with keep_timing(tmp_path, Clock(before=1.0)):
        pass
    assert read_timings(tmp_path)[-1].parts["start"] == 1
