"""Programs that a whole study compiles: their number depends on methods and encoders, not on seeds and numbers of images."""

import collections

import jax
import pytest
from tiny_studies import tiny

from sslshift.study import cli, runner


class Compilations:
    """Programs that are compiled, or loaded from a cache, while functions are called; by function and call."""

    def __init__(self):
        self.programs: list[str] = []
        self.of_calls: dict[str, list[list[str]]] = collections.defaultdict(list)

    def on_span(self, event, start, end, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs.append(fun_name)

    def counted(self, name, function):
        def call(*args, **kwargs):
            before = len(self.programs)
            try:
                return function(*args, **kwargs)
            finally:
                self.of_calls[name].append(self.programs[before:])

        return call


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two methods, two numbers of images and two seeds, in a process that has compiled nothing."""
    found = Compilations()
    declared = tiny(
        f"--out={tmp_path_factory.mktemp('compilations')}",
        "--sources=bundled:mnist@64,128",
        "--budget=128",
        "--method=simclr,byol",
        "--shift_images=0",
        "--seeds=2",
    )
    jax.clear_caches()
    jax.monitoring.register_event_time_span_listener(found.on_span)
    try:
        with pytest.MonkeyPatch.context() as patched:
            for name in ("train", "evaluate_run", "evaluate_untrained"):
                patched.setattr(runner, name, found.counted(name, getattr(runner, name)))
            patched.setattr(cli, "_report", lambda *_: None)
            cli.run(declared)
    finally:
        jax.monitoring.unregister_event_time_span_listener(found.on_span)
    return found


def test_a_learner_has_one_program_of_its_step_and_one_of_its_start(study):
    names = collections.Counter(study.programs)
    assert names["jit(train_step)"] == 2
    assert names["jit(init_state)"] == 2


def test_only_the_first_run_of_a_learner_compiles(study):
    calls = study.of_calls["train"]
    assert len(calls) == 8
    # The first seed: simclr on 64 and 128 images, then byol; then the second seed.
    assert ["jit(train_step)" in programs for programs in calls] == [True, False, True, False, *[False] * 4]
    assert [programs for number, programs in enumerate(calls) if number not in (0, 2)] == [[]] * 6


def test_only_the_first_evaluation_of_an_encoder_compiles(study):
    """The first one is that of an untrained encoder; the chosen neighbours and penalties of the others compile nothing."""
    assert [len(programs) for programs in study.of_calls["evaluate_run"]] == [0] * 8
    assert [len(programs) for programs in study.of_calls["evaluate_untrained"]][1:] == [0] * 3
