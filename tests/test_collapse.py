"""The check for collapse: its signals by hand and by NumPy, when it is made, and what it says of runs that collapse."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import SamplePlan, open_reader
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.views import normalise
from sslshift.methods.base import Output
from sslshift.methods.siamese import forward
from sslshift.study.declare import Study
from sslshift.study.learners import parse_learners
from sslshift.training.collapse import CollapseCheck, collapse_text, embedding_signals, final_collapse
from sslshift.training.feed import StepChunk
from sslshift.training.journal import read_metrics
from sslshift.training.loop import Training, train
from sslshift.training.observe import Observation
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import make_mesh

ROOT = Path(__file__).parent.parent
SIGNALS = {"embedding_rank", "embedding_spread"}


def signals(embeddings):
    return {name: float(value) for name, value in embedding_signals(jnp.asarray(embeddings, jnp.float32)).items()}


@pytest.mark.parametrize(
    ("embeddings", "rank", "spread"),
    [
        # Two directions of equal variance, and no mean.
        ([[1, 0], [-1, 0], [0, 1], [0, -1]], 2, 1),
        # Variances 4 and 1: (4 + 1)^2 / (16 + 1).
        ([[2, 0], [-2, 0], [0, 1], [0, -1]], 25 / 17, 1),
        ([[5, 5], [5, 5], [5, 5]], 1, 0),
        ([[0, 0], [0, 0]], 1, 0),
        # A mean of length 3 beside differences of length 1.
        ([[3, 1], [3, -1]], 1, 0.1),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_signals_by_hand(embeddings, rank, spread, scale):
    found = signals(np.array(embeddings) * scale)
    assert found["embedding_rank"] == pytest.approx(rank, rel=1e-5)
    assert found["embedding_spread"] == pytest.approx(spread, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([(5, 3), (3, 5), (8, 8)]), st.integers(0, 99))
def test_signals_are_those_of_the_covariance(shape, seed):
    z = np.random.default_rng(seed).normal(1, 1, shape) * np.arange(1, shape[1] + 1)
    values = np.linalg.eigvalsh(np.cov(z.T, bias=True))
    found = signals(z)
    assert found["embedding_rank"] == pytest.approx(values.sum() ** 2 / np.square(values).sum(), rel=1e-3)
    assert found["embedding_spread"] == pytest.approx(values.sum() / np.square(z).sum(axis=1).mean(), rel=1e-3)


def test_signals_work_under_strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        # Means of columns are subtracted from rows.
        assert signals(np.eye(4))["embedding_rank"] == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("most", [1, 7, 30])
def test_checks_are_made_at_quarters_of_a_run_that_is_long_enough(small_method, most):
    def due(steps, unique):
        check = CollapseCheck(small_method("simclr"), make_mesh(), steps, unique)
        ends = [min(start + most, steps) for start in range(0, steps, most)]
        chunks = [StepChunk(stop, stop - start, (), ()) for start, stop in zip([0, *ends], ends, strict=False)]
        return [chunk.stop for chunk in chunks if check.due(chunk)]

    expected = {1: [26, 51, 77, 102], 7: [28, 56, 77, 102], 30: [30, 60, 90, 102]}
    assert due(102, 32) == expected[most]
    assert due(102, 31) == []
    assert due(99, 5000) == []


def test_a_collapse_is_a_sentence():
    sound = {"step": 50, "loss": 1.0, "embedding_rank": 1.6, "embedding_spread": 0.1, "feature_spread": 0.001}
    assert collapse_text(sound) == ""
    assert collapse_text({"step": 50, "loss": 1.0}) == ""
    one = sound | {"embedding_rank": 1.211}
    assert collapse_text(one) == "embedding rank 1.21 (expected at least 1.6) at step 50"
    assert (
        collapse_text({"step": 1000, "feature_spread": 0.0002})
        == "feature spread 0.0002 (expected at least 0.001) at step 1,000"
    )
    assert " and embedding spread 0 (expected" in collapse_text(one | {"embedding_spread": 0.0})
    # What counts is the end of the run.
    assert final_collapse([one, {"step": 51}, sound | {"step": 100}, {"step": 101}]) == ""
    assert final_collapse([sound, one, {"step": 51}]) == collapse_text(one)
    assert final_collapse([{"step": 1, "loss": 2.0}]) == ""


def cosine(a, b):
    a, b = (each / jnp.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    return jnp.mean(jnp.sum(a * b, axis=1))


def without_stop(method):
    """SimSiam whose gradient passes through the target."""

    def loss(variables, target, views, context):
        ((z1, z2), (p1, p2)), batch_stats = forward(method.networks, variables, views)
        return -(cosine(p1, z2) + cosine(p2, z1)) / 2, Output(batch_stats)

    return dataclasses.replace(method, loss=loss)


def without_predictor(method):
    """BYOL that compares projections with those of the target."""

    def loss(variables, target, views, context):
        (z1, z2), batch_stats = forward(method.networks, variables, views, "project")
        (t1, t2), target_stats = forward(method.networks, target, views, "project")
        t1, t2 = jax.lax.stop_gradient((t1, t2))
        return 4 - 2 * cosine(z1, t2) - 2 * cosine(z2, t1), Output(batch_stats, target | {"batch_stats": target_stats})

    return dataclasses.replace(method, loss=loss)


def constant(method):
    """A loss whose least value has constant embeddings."""

    def loss(variables, target, views, context):
        (z1, z2), batch_stats = forward(method.networks, variables, views)
        return sum(jnp.var(z, axis=0).sum() / jnp.square(z).mean(axis=0).sum() for z in (z1, z2)), Output(batch_stats)

    return dataclasses.replace(method, loss=loss)


@pytest.fixture
def reader(gray_source, canvas):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(1600), 16, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


def test_a_run_that_collapses_warns_once_and_keeps_its_bits_and_lines_after_a_kill(small_method, reader, tmp_path):
    training = Training(constant(small_method("vicreg")), Optimiser(learning_rate=0.3, warmup=0.0), checkpoint_every=40)
    notes = []
    whole = train(training, reader, 0, tmp_path / "whole", observation=Observation(note=notes.append))
    lines = read_metrics(tmp_path / "whole/metrics.jsonl")
    assert [line["step"] for line in lines if SIGNALS & line.keys()] == [25, 50, 75, 100]
    assert len(notes) == 1
    assert notes[0].startswith(f"Warning: {tmp_path}/whole has collapsed: embedding ")
    assert final_collapse(lines).endswith(" at step 100")

    def kill(step, scalars):
        if step == 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path / "killed", kill)
    state = train(training, reader, 0, tmp_path / "killed")
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), state, whole)))
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()


@pytest.mark.slow
def test_several_steps_in_one_program_have_checks_at_the_ends_of_programs(small_method, reader, tmp_path):
    training = Training(constant(small_method("vicreg")), Optimiser(), checkpoint_every=40, steps_per_dispatch=10)
    train(training, reader, 0, tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if SIGNALS & line.keys()] == [30, 50, 80, 100]
    assert all(math.isfinite(line["embedding_rank"]) for line in lines if "embedding_rank" in line)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("simclr", SIGNALS), ("dino", {"embedding_spread"}), ("mae", {"feature_spread"})],
)
def test_methods_have_the_signals_that_mean_something_for_them(name, expected, small_method, images, canvas):
    method = small_method(name)
    variables = jax.jit(method.init)(jax.random.key(0), images[:2])
    check = CollapseCheck(method, make_mesh(), 100, 100)
    found = check.signals(variables, StepChunk(25, 1, (jnp.asarray(images),), ()))
    assert found.keys() == expected
    # The batch of the first of several steps.
    several = jnp.stack([jnp.asarray(images), jnp.zeros_like(images)])
    again = check.signals(variables, StepChunk(25, 2, (several,), ()))
    assert all(float(again[each]) == pytest.approx(float(found[each]), rel=1e-5) for each in expected)
    if name == "simclr":
        (z,) = method.networks.apply(variables, (normalise(images),), train=False, method="project")
        assert signals(z) == pytest.approx({each: float(found[each]) for each in expected}, rel=1e-4)


def trained_on_quickstart(name, change, folder):
    """What collapsed in 120 steps of quickstart's images and networks, at a quarter of its batch."""
    (settings_of_run,) = parse_learners(Study(method=name, for_method=("byol: predictor=512",)))
    training = settings_of_run.training()
    method = globals()[change](training.method) if change else training.method
    reader = open_reader("bundled:fashion_mnist@2000", budget=64 * 120, batch_size=64, canvas=(28, 28, 1))
    train(dataclasses.replace(training, method=method, checkpoint_every=120), reader, 0, folder)
    return final_collapse(read_metrics(Path(folder) / "metrics.jsonl"))


# Of all sound methods Barlow Twins has the lowest rank.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change", "collapsed"),
    [("simsiam", "without_stop", "rank"), ("byol", "without_predictor", "spread"), ("barlow_twins", "", "")],
)
def test_collapses_are_found_and_sound_runs_are_not(name, change, collapsed, tmp_path):
    # On one device, since eight virtual ones take ten times as long.
    code = "import sys; sys.path.insert(0, 'tests'); from test_collapse import *; print(trained_on_quickstart(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, name, change, str(tmp_path)]
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    assert (collapsed in done.stdout) if collapsed else not done.stdout.strip()
