import json
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.methods import METHODS
from sslshift.models import PatchMLP
from sslshift.training.checkpoints import CheckpointError
from sslshift.training.loop import NonFiniteError, Training, train
from sslshift.training.metrics import MetricsWriter
from sslshift.training.state import Optimiser, init_state
from sslshift.training.step import compiled_step, make_mesh, replicate, shard_batch, train_step

ENCODER = PatchMLP(width=8, features=16)


@pytest.fixture(params=sorted(METHODS))
def method(request):
    return METHODS[request.param](ENCODER, widths=(32, 16))


@pytest.fixture
def training():
    return Training(METHODS["simclr"](ENCODER, widths=(32, 16)), Optimiser(learning_rate=5e-3), checkpoint_every=4)


@pytest.fixture
def reader(gray_source, canvas):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


def equal(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def test_step_on_eight_devices_is_the_step_on_one(method, random, canvas):
    """Loss, gradients, batch statistics and update agree: negatives and batch norm are those of the global batch."""
    optimiser = Optimiser("sgd", learning_rate=0.1).build(10, 16)
    images = random.integers(0, 256, (16, *canvas), np.uint8)
    outcomes = []
    for devices in (1, 8):
        mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])
        state = replicate(mesh, init_state(method, optimiser, jax.random.key(0), jnp.zeros(canvas, jnp.uint8)))
        step = compiled_step(method, optimiser, 10, mesh)
        for _ in range(3):
            state, metrics = step(state, shard_batch(mesh, images), replicate(mesh, jax.random.key(5)))
        outcomes.append(jax.device_get((state, metrics)))
    chex.assert_trees_all_close(*outcomes, rtol=1e-4, atol=1e-5)


def test_step_compiles_once_and_donates_its_state(training, random, canvas):
    chex.clear_trace_counter()
    optimiser = training.optimiser.build(10, 16)
    counted = chex.assert_max_traces(
        lambda *args: train_step(*args, method=training.method, optimiser=optimiser, steps=10), n=1
    )
    step = jax.jit(counted, donate_argnums=0)
    state = jax.jit(lambda key: init_state(training.method, optimiser, key, jnp.zeros(canvas, jnp.uint8)))(jax.random.key(0))
    first = state
    for _ in range(3):
        state, _ = step(state, random.integers(0, 256, (16, *canvas), np.uint8), jax.random.key(1))
    assert first.params["encoder"]["Dense_0"]["kernel"].is_deleted()
    assert state.step == 3


def test_runs_of_a_study_share_one_compiled_step(training):
    optimiser, mesh = training.optimiser.build(10, 16), make_mesh()
    assert compiled_step(training.method, optimiser, 10, mesh) is compiled_step(training.method, optimiser, 10, make_mesh())


def test_loss_falls_and_metrics_are_written(method, gray_source, canvas, tmp_path):
    plan = SamplePlan(single(gray_source.name, 200, 200), Budget(1600), 32, seed=1, subset_seed=2)
    reader = BatchReader(plan, {gray_source.name: gray_source}, canvas)
    train(Training(method, Optimiser(learning_rate=5e-3)), reader, 0, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert np.mean([line["loss"] for line in lines[-10:]]) < 0.95 * np.mean([line["loss"] for line in lines[:10]])


def test_resumed_run_ends_with_the_same_bits_as_an_uninterrupted_one(training, reader, tmp_path):
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

    def explode(networks, variables, target, views):
        loss, output = method.loss(networks, variables, target, views)
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


def test_disk_that_fills_up_leaves_the_last_good_checkpoint(reader, tmp_path, capfd):
    training = Training(METHODS["simclr"](ENCODER, widths=(512, 256)), Optimiser(), checkpoint_every=4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step, scalars):
        if step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))

    try:
        with pytest.raises(CheckpointError, match=r"step 8 could not be written .*last good one is step 4"):
            train(training, reader, 0, tmp_path / "full", fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Traceback" not in capfd.readouterr().err
    assert equal(train(training, reader, 0, tmp_path / "full"), train(training, reader, 0, tmp_path / "whole"))


def test_damaged_checkpoint_is_named(training, reader, tmp_path):
    train(training, reader, 0, tmp_path)
    latest = tmp_path / "checkpoints/10"
    shutil.rmtree(latest / "state")
    with pytest.raises(CheckpointError, match=r"step 10 .* cannot be read"):
        train(training, reader, 0, tmp_path)


def test_batches_that_do_not_fit_are_refused(training, reader, tmp_path):
    uneven = BatchReader(short(reader.plan, 330), reader.sources, reader.canvas)
    with pytest.raises(ValueError, match=r"not a whole number of batches of 32; use 320"):
        train(training, uneven, 0, tmp_path)
    plan = SamplePlan(reader.plan.mixture, Budget(300), 30, 0, 0)
    with pytest.raises(ValueError, match="30 cannot be divided among 8 devices"):
        train(training, BatchReader(plan, reader.sources, reader.canvas), 0, tmp_path)


def test_schedule_warms_up_and_ends_at_zero():
    steps, updates = 20, []
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
    for _ in range(3):
        updates, state = optimiser.update(jax.tree.map(jnp.zeros_like, params), state, params)
    assert (updates["bias"] == 0).all()
    assert (updates["kernel"] < 0).all()


@pytest.mark.parametrize("wrong", [{"name": "adam"}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"weight_decay": -1.0}])
def test_impossible_optimisers_are_refused(wrong):
    with pytest.raises(ValueError, match=r"No optimiser|Learning rate"):
        Optimiser(**wrong)


def test_metrics_file_drops_what_a_resumed_run_repeats_and_a_line_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    writer = MetricsWriter(path, keep_steps=1)
    writer.write_scalars(2, {"loss": 1.25})
    writer.close()
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.25}\n'
