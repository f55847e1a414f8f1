"""Guards of a run: steps that are not finite stop it, or are skipped and counted."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import STEPS, equal, start

from sslshift.methods import METHODS
from sslshift.training.guards import FiniteGuard, NonFiniteError, skipped_steps
from sslshift.training.journal import loss_trend, read_metrics
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import guarded_step, train_step


def broken_at(method, steps, *broken):
    """The method with a loss and a gradient that are not finite in these steps of a run, counted from 0."""

    def loss(variables, target, views, context):
        value, output = method.loss(variables, target, views, context)
        bad = jnp.any(jnp.round(context.progress * steps) == jnp.asarray(broken, jnp.float32))
        return value * jnp.where(bad, jnp.float32(jnp.inf), jnp.float32(1)), output

    return dataclasses.replace(method, loss=loss)


def stepping(method, canvas, step):
    """A jitted step of a run, and its first state."""
    optimiser, state = start(method, canvas)
    return jax.jit(lambda *args: step(*args, method=method, optimiser=optimiser, steps=STEPS)), state


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_skipped_step_changes_nothing_but_the_step_number(name, small_method, images, canvas):
    step, state = stepping(broken_at(small_method(name), STEPS, 2), canvas, guarded_step)
    for number in range(4):
        before = state
        state, metrics = step(state, images, jax.random.key(1))
        assert int(state.step) == number + 1
        assert int(metrics["skipped"]) == (number == 2)
        assert equal(state.replace(step=before.step), before) == (number == 2)
    assert np.isfinite(metrics["loss"])


@pytest.mark.slow
def test_a_step_that_is_finite_is_taken_as_it_is(small_method, images, canvas):
    method = small_method("byol")
    (guarded, state), (plain, _) = (stepping(method, canvas, each) for each in (guarded_step, train_step))
    taken, expected = (step(state, images, jax.random.key(1))[0] for step in (guarded, plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), taken, expected)


@pytest.fixture
def skipping(small_method):
    method = broken_at(small_method("simclr"), 10, 1, 5, 6)
    return Training(method, Optimiser(learning_rate=5e-3), checkpoint_every=4, on_nonfinite="skip")


def test_skipped_steps_are_counted_and_a_killed_run_ends_with_the_same_bits(skipping, reader, tmp_path):
    whole = train(skipping, reader, 0, tmp_path / "whole")
    lines = read_metrics(tmp_path / "whole/metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 1, 0, 0, 0, 1, 1, 0, 0, 0]
    assert ["loss" in line for line in lines] == [not line["skipped"] for line in lines]
    assert skipped_steps(lines) == 3
    assert all(map(np.isfinite, loss_trend(tmp_path / "whole/metrics.jsonl")))

    def kill(step, scalars):
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(skipping, reader, 0, tmp_path / "killed", kill)
    assert equal(train(skipping, reader, 0, tmp_path / "killed"), whole)
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


def test_several_steps_in_one_program_skip_the_same_steps(skipping, reader, tmp_path):
    train(dataclasses.replace(skipping, steps_per_dispatch=3), reader, 0, tmp_path)
    assert [line["skipped"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1, 0, 0, 0, 1, 1, 0, 0, 0]


def test_the_default_still_stops(skipping, reader, tmp_path):
    with pytest.raises(NonFiniteError, match=r"Step 2 of .*not finite: training stopped.*checkpoint: none yet\. Try a lower"):
        train(dataclasses.replace(skipping, on_nonfinite="stop"), reader, 0, tmp_path)
    assert "skipped" not in json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])


def line(skipped):
    return {"loss": float("nan"), "skipped": 1} if skipped else {"loss": 1.0, "skipped": 0}


@pytest.mark.parametrize(
    ("steps", "pattern", "stops_at"),
    [
        (1000, [1] * 10 + [0] + [1] * 10, None),
        (1000, [1] * 11, 11),
        # A twentieth of 400 steps are 20, and the least limit is 10.
        (400, [1, 0] * 20, None),
        (400, [1, 0] * 21, 41),
        (100, [1, 0] * 10, None),
        (100, [1, 0] * 11, 21),
    ],
)
def test_too_many_skipped_steps_stop_the_run(tmp_path, steps, pattern, stops_at):
    def guard(earlier=()):
        return FiniteGuard(tmp_path, steps, earlier, lambda: 7)

    def run(guard, numbers):
        for number in numbers:
            kept = guard.checked(number, line(pattern[number - 1]))
            assert kept == ({"skipped": 1} if pattern[number - 1] else {"loss": 1.0, "skipped": 0})

    numbers = range(1, len(pattern) + 1)
    # A run that continues after five steps stops at the same step.
    resumed = guard([line(skipped) for skipped in pattern[:5]])
    if stops_at is None:
        run(guard(), numbers)
        run(resumed, numbers[5:])
        return
    sentence = rf"Step {stops_at} of .* skipped steps, .* may be skipped, and 10 in a row: training stopped.*step 7 in"
    for some, part in ((guard(), numbers), (resumed, numbers[5:])):
        with pytest.raises(NonFiniteError, match=sentence):
            run(some, part)


def test_another_choice_is_refused(small_method):
    with pytest.raises(ValueError, match="Expected one of stop, skip for on_nonfinite, got 'ignore'"):
        Training(small_method("simclr"), Optimiser(), on_nonfinite="ignore")
