import json
import os
import resource
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_steps import equal

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.methods import METHODS
from sslshift.training.checkpoints import CheckpointError
from sslshift.training.guards import NonFiniteError
from sslshift.training.journal import MetricsWriter
from sslshift.training.loop import Training, train
from sslshift.training.optimiser import Optimiser
from sslshift.training.programs import bound_programs
from sslshift.training.step import compiled_step, init_state, make_mesh, train_step


@pytest.fixture
def training(small_method):
    return Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=4)


def test_step_compiles_once_and_donates_its_state(small_method, random, canvas):
    # Of all methods' states this one has the most parts.
    method = small_method("dino")
    chex.clear_trace_counter()
    optimiser = Optimiser().build(10, 16)
    counted = chex.assert_max_traces(lambda *args: train_step(*args, method=method, optimiser=optimiser, steps=10), n=1)
    step = jax.jit(counted, donate_argnums=0)
    state = init_state(method, optimiser, jax.random.key(0), jnp.zeros(canvas, jnp.uint8))
    first = state
    for _ in range(3):
        state, _ = step(state, random.integers(0, 256, (16, *canvas), np.uint8), jax.random.key(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((first.params, first.batch_stats, first.target, first.optimiser)))
    assert state.step == 3


def test_runs_of_a_study_share_one_compiled_step(training):
    optimiser = training.optimiser.build(10, 16)
    mesh = make_mesh()
    assert compiled_step(training.method, optimiser, 10, mesh) is compiled_step(training.method, optimiser, 10, make_mesh())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_loss_falls_and_metrics_are_written(name, small_method, gray_source, canvas, tmp_path):
    plan = SamplePlan(single(gray_source.name, 200, 200), Budget(3200), 32, seed=1, subset_seed=2)
    reader = BatchReader(plan, {gray_source.name: gray_source}, canvas)
    # A teacher that follows faster than the recipe's, which is made for runs a thousand times as long.
    changes = {"momentum": 0.99, "teacher_temperature": 0.04, "first_teacher_temperature": 0.04} if name == "dino" else {}
    train(Training(small_method(name, **changes), Optimiser(learning_rate=5e-3)), reader, 0, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 101))
    first, last = (np.array([line["loss"] for line in part]) for part in (lines[:20], lines[-20:]))
    # By more than two standard errors of the difference.
    assert first.mean() - last.mean() > 2 * np.sqrt((first.var() + last.var()) / 20)


@pytest.mark.parametrize(("name", "optimiser"), [("simsiam", "sgd"), ("dino", "lars"), ("nnclr", "adamw"), ("swav", "lars")])
def test_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(name, optimiser, small_method, reader, tmp_path):
    training = Training(small_method(name), Optimiser(optimiser, learning_rate=5e-3), checkpoint_every=4)
    whole = train(training, reader, 0, tmp_path / "whole")

    class KilledError(Exception):
        pass

    def kill(step, scalars):
        if step == 6:
            raise KilledError

    with pytest.raises(KilledError):
        train(training, reader, 0, tmp_path / "killed", kill)
    resumed = train(training, reader, 0, tmp_path / "killed")
    assert equal(resumed, whole)
    assert (tmp_path / "killed/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
    assert equal(train(training, reader, 0, tmp_path / "whole"), whole)


def test_seed_changes_the_run(training, reader, tmp_path):
    assert not equal(train(training, reader, 0, tmp_path / "0"), train(training, reader, 1, tmp_path / "1"))


def test_non_finite_loss_stops_and_names_step_and_checkpoint(training, reader, tmp_path):
    method = training.method
    state_steps = []

    def explode(variables, target, views, context):
        loss, output = method.loss(variables, target, views, context)
        # Not a number once the weights have moved far enough from their start: after some steps, not at the first.
        moved = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(variables["batch_stats"]))
        return jnp.where(moved > threshold, jnp.nan, loss), output

    def observe(step, scalars):
        state_steps.append(step)

    threshold = jnp.inf
    final = train(training, reader, 0, tmp_path / "probe")
    total = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(final.batch_stats))
    early = train(training, BatchReader(short(reader.plan, 160), reader.sources, reader.canvas), 0, tmp_path / "early")
    threshold = (total + sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(early.batch_stats))) / 2
    broken = Training(type(method)(method.views, method.networks, explode), training.optimiser, training.checkpoint_every)
    with pytest.raises(NonFiniteError, match=r"Step \d+ .*not finite.*last good checkpoint: step [48] in"):
        train(broken, reader, 0, tmp_path / "run", observe)
    kept = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir() if path.name.isdigit())
    assert kept
    assert kept[-1] <= state_steps[-1]


def short(plan, samples):
    return SamplePlan(plan.mixture, Budget(samples), plan.batch_size, plan.seed, plan.subset_seed)


def test_disk_that_fills_up_leaves_the_last_good_checkpoint(small_method, reader, tmp_path, capfd):
    training = Training(small_method("simclr", projector=(512, 256)), Optimiser(), checkpoint_every=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, scalars):
        if step == 6:
            # The checkpoint of step 4 is still being written in the background.
            while not (tmp_path / "full/checkpoints/4").exists():
                time.sleep(0.01)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))

    try:
        with pytest.raises(
            CheckpointError, match=r"step 8 could not be written .*good one is step 4\. Raise the system's limit"
        ):
            train(training, reader, 0, tmp_path / "full", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert equal(train(training, reader, 0, tmp_path / "full"), train(training, reader, 0, tmp_path / "whole"))


def test_a_run_with_a_damaged_checkpoint_continues_from_the_one_before_to_the_same_bits(training, reader, tmp_path, capsys):
    whole = train(training, reader, 0, tmp_path)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    # One bit of the values of an array, for which the format of checkpoints has no checksum.
    (values, *_) = sorted((tmp_path / "checkpoints/10/state").rglob("d/*"), key=lambda path: -path.stat().st_size)
    content = bytearray(values.read_bytes())
    content[len(content) // 2] ^= 4
    values.write_bytes(content)
    steps = []
    assert equal(train(training, reader, 0, tmp_path, lambda step, _: steps.append(step)), whole)
    assert steps == [9, 10]
    assert (tmp_path / "metrics.jsonl").read_text() == metrics
    assert (
        f"(step 10: {values.relative_to(tmp_path / 'checkpoints/10')} was changed): the run continues"
        in capsys.readouterr().err
    )
    # The damaged checkpoint was replaced.
    assert equal(train(training, reader, 0, tmp_path, lambda step, _: steps.append(step)), whole)
    assert steps == [9, 10]


def test_a_folder_that_is_in_use_is_refused_and_left_alone(training, reader, tmp_path):
    def second(step, scalars):
        before = (tmp_path / "metrics.jsonl").read_bytes()
        message = rf"{tmp_path} is in use by process {os.getpid()} on .*, which trains there: two processes cannot write to the"
        with pytest.raises(RuntimeError, match=message):
            train(training, reader, 1, tmp_path)
        assert (tmp_path / "metrics.jsonl").read_bytes() == before
        refused.append(step)

    refused = []
    state = train(training, reader, 0, tmp_path, second)
    assert refused
    chex.assert_trees_all_equal(state.params, train(training, reader, 0, tmp_path).params)
    assert not list(tmp_path.glob(".training*"))


def test_batches_that_do_not_fit_are_refused(training, reader, tmp_path):
    uneven = BatchReader(short(reader.plan, 330), reader.sources, reader.canvas)
    with pytest.raises(ValueError, match=r"not a whole number of batches of 32; use 320"):
        train(training, uneven, 0, tmp_path)
    plan = SamplePlan(reader.plan.mixture, Budget(300), 30, 0, 0)
    with pytest.raises(ValueError, match="30 cannot be divided among 8 devices"):
        train(training, BatchReader(plan, reader.sources, reader.canvas), 0, tmp_path)


def test_schedule_warms_up_and_ends_at_zero():
    steps = 20
    updates = []
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.0, warmup=0.25).build(steps, 512)
    params = {"w": jnp.ones((2, 2))}
    state = optimiser.init(params)
    # A gradient of 1 in one step only would hide the schedule behind momentum: read the scale of a first step instead.
    for step in range(steps + 1):
        count = jax.tree.map(lambda x, step=step: jnp.full_like(x, step) if x.dtype == jnp.int32 else x, state)
        update, _ = optimiser.update(jax.tree.map(jnp.ones_like, params), count, params)
        updates.append(-float(update["w"][0, 0]))
    assert updates[:6] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert updates[19] > 0
    assert updates[20] == pytest.approx(0, abs=1e-6)
    assert np.all(np.diff(updates[5:]) < 0)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.1), (2, 0.9), (10, 0.0)])
def test_first_step_learns_also_in_short_runs(steps, warmup):
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.0, warmup=warmup).build(steps, 256)
    params = {"w": jnp.ones((2, 2))}
    update, _ = optimiser.update(params, optimiser.init(params), params)
    assert float(-update["w"][0, 0]) > 0


@pytest.mark.parametrize("name", ["adamw", "lars", "sgd"])
def test_weight_decay_spares_biases_and_norms(name):
    params = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}
    optimiser = Optimiser(name, learning_rate=0.1, weight_decay=0.5, warmup=0.0).build(10, 256)
    state = optimiser.init(params)
    # LARS leaves a tensor without any gradient alone.
    gradient = {"kernel": jnp.full((3, 3), 1e-9), "bias": jnp.zeros(3)}
    for _ in range(3):
        updates, state = optimiser.update(gradient, state, params)
    assert (updates["bias"] == 0).all()
    assert (updates["kernel"] < 0).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "adam"},
        {"learning_rate": 0.0},
        {"warmup": 1.0},
        {"weight_decay": -1.0},
        {"beta2": 1.0},
        {"layer_decay": 0.0},
    ],
)
def test_impossible_optimisers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"Expected one of adamw|a learning rate above 0|a layer decay in"):
        Optimiser(**wrong)


def test_lars_against_a_naive_loop(random):
    """The recipe's formula, with clipping: large gradients are scaled down to the trust ratio, small ones left as they are."""
    steps = 6
    decay = 0.1
    optimiser = Optimiser("lars", learning_rate=0.5, weight_decay=decay, warmup=0.0)
    schedule = [0.5 * 0.5 * (1 + np.cos(np.pi * step / steps)) for step in range(steps)]
    params = {"large": random.normal(size=(4, 3)), "small": random.normal(size=(4, 3)), "bias": random.normal(size=3)}
    gradients = [
        {"large": 10 * random.normal(size=(4, 3)), "small": 1e-3 * random.normal(size=(4, 3)), "bias": random.normal(size=3)}
        for _ in range(steps)
    ]
    transformation = optimiser.build(steps, 256)
    ours = jax.tree.map(jnp.asarray, params)
    state = transformation.init(ours)
    momentum = {name: np.zeros_like(value) for name, value in params.items()}
    clipped = set()
    for rate, gradient in zip(schedule, gradients, strict=True):
        updates, state = transformation.update(jax.tree.map(jnp.asarray, gradient), state, ours)
        ours = jax.tree.map(jnp.add, ours, updates)
        for name, p in params.items():
            g = gradient[name]
            if p.ndim > 1:
                q = 0.02 * np.linalg.norm(p) / (np.linalg.norm(g) + decay * np.linalg.norm(p) + 1e-8)
                clipped |= {name} if q >= rate else set()
                g = min(q / rate, 1) * (g + decay * p)
            momentum[name] = 0.9 * momentum[name] + g
            params[name] = p - rate * momentum[name]
    assert clipped
    assert "large" not in clipped
    for name, p in params.items():
        np.testing.assert_allclose(ours[name], p, rtol=1e-5, atol=1e-6)


def test_constant_rate_keeps_one_network_at_the_peak():
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.0, warmup=0.5).build(10, 256, ("predictor",))
    params = {"encoder": {"w": jnp.ones((2, 2))}, "predictor": {"w": jnp.ones((2, 2))}}
    updates, _ = optimiser.update(jax.tree.map(jnp.ones_like, params), optimiser.init(params), params)
    assert float(updates["encoder"]["w"][0, 0]) == pytest.approx(-0.2)
    assert float(updates["predictor"]["w"][0, 0]) == pytest.approx(-1.0)


def test_layer_decay_slows_what_lies_further_down():
    params = {"encoder": {"embed": 0, "block0": 0, "block1": 0, "norm": 0}, "head": 0}
    params = jax.tree.map(lambda _: {"kernel": jnp.ones((2, 2))}, params)
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.0, warmup=0.0, layer_decay=0.5).build(10, 256)
    updates, _ = optimiser.update(jax.tree.map(jnp.ones_like, params), optimiser.init(params), params)
    sizes = jax.tree.map(lambda leaf: float(-leaf[0, 0]), updates)
    assert sizes["head"]["kernel"] == 1
    encoder = {name: leaf["kernel"] for name, leaf in sizes["encoder"].items()}
    assert encoder == {"embed": 0.125, "block0": 0.25, "block1": 0.5, "norm": 1.0}


def test_learned_positions_are_not_decayed():
    params = {"encoder": {"positions": jnp.ones((2, 2, 4)), "kernel": jnp.ones((2, 4))}}
    optimiser = Optimiser("sgd", learning_rate=1.0, weight_decay=0.5, warmup=0.0).build(10, 256)
    updates, _ = optimiser.update(jax.tree.map(jnp.zeros_like, params), optimiser.init(params), params)
    assert (updates["encoder"]["positions"] == 0).all()
    assert (updates["encoder"]["kernel"] < 0).all()


def test_metrics_file_drops_what_a_resumed_run_repeats_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    writer = MetricsWriter(path, keep_steps=1)
    writer.write_scalars(2, {"loss": 1.25})
    writer.close()
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.25}\n'


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not list a process's memory maps")
def test_compiled_programs_are_forgotten_above_a_number_of_memory_maps():
    programs = [jax.jit(lambda x, power=power: jnp.sort(x**power)) for power in range(20)]
    before = [float(program(jnp.arange(8.0)).sum()) for program in programs]
    held = len(Path("/proc/self/maps").read_text().splitlines())
    assert not bound_programs(held + 1_000)
    assert bound_programs(held // 2)
    assert len(Path("/proc/self/maps").read_text().splitlines()) < held - 20
    assert [float(program(jnp.arange(8.0)).sum()) for program in programs] == before
