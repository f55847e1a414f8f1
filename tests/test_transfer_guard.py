"""On an accelerator the guard against implicit transfers must hold around the dispatch of a step, and around nothing else.

A CPU's arrays are in host memory, so its own guard never fires. The fixture `implicit_transfers_raise` fires in its place,
wherever Python or NumPy converts an array to values on the host.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.array import ArrayImpl
from jax._src.lib import guard_lib
from labelled_features import cluster_splits

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import ArraySource
from sslshift.models import PatchMLP, PretrainedEncoder
from sslshift.training import feed, loop
from sslshift.training.checkpoints import Checkpoints
from sslshift.training.journal import BrokenImages, MetricsWriter
from sslshift.training.loop import Training, train
from sslshift.training.online import Labelled, Online, Watch
from sslshift.training.optimiser import Optimiser
from sslshift.transfer import finetune, knn
from sslshift.transfer.evaluation import Split, Splits
from sslshift.transfer.features import NetworkEncoder
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.finetune import FineTune
from sslshift.transfer.knn import KNN
from sslshift.transfer.linear_probe import LinearProbe
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import evaluate
from sslshift.transfer.sgd_probe import SGDProbe
from sslshift.transfer.tasks import make_task

LEVELS = ("host_to_device", "device_to_device", "device_to_host")


def guards():
    """The levels that hold on this thread: a context's where there is one, else the process's; empty where all is allowed."""
    here = guard_lib.thread_local_state()
    everywhere = guard_lib.global_state()
    levels = {name: getattr(here, name) or getattr(everywhere, name) for name in LEVELS}
    return {name: level.name for name, level in levels.items() if level is not None and level.name != "ALLOW"}


class ImplicitTransferError(Exception):
    pass


def require_allowed(array):
    if isinstance(array, ArrayImpl) and "device_to_host" in guards() and not guard_lib.thread_local_state().explicit_device_get:
        raise ImplicitTransferError(f"Disallowed device-to-host transfer: {array.shape}, {array.dtype}")


@pytest.fixture
def implicit_transfers_raise(monkeypatch):
    value = ArrayImpl._value
    asarray = np.asarray
    array = np.array

    def checked(convert):
        def converted(x, *args, **options):
            require_allowed(x)
            return convert(x, *args, **options)

        return converted

    monkeypatch.setattr(ArrayImpl, "_value", property(checked(value.fget)))
    # NumPy reads a CPU's array through the buffer protocol, past `_value`.
    monkeypatch.setattr(np, "asarray", checked(asarray))
    monkeypatch.setattr(np, "array", checked(array))


READS = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "item": lambda x: x.item(),
    "tolist": lambda x: x.tolist(),
    "format": lambda x: f"{x:.2f}",
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array(x),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_emulation_raises_where_an_accelerator_would(read, implicit_transfers_raise):
    fresh = jax.jit(lambda: jnp.int32(3) + 0)
    read(fresh())
    with jax.transfer_guard("disallow"):
        array = fresh()
        assert jax.device_get(array) == 3
        array = fresh()
        with pytest.raises(ImplicitTransferError, match="device-to-host"):
            read(array)


@pytest.fixture
def training(small_method):
    return Training(small_method("simclr"), Optimiser(learning_rate=5e-3), checkpoint_every=2)


@pytest.fixture
def reader(gray_source, canvas):
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(160), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


@pytest.fixture
def online(gray_source, canvas):
    part = Labelled(gray_source.read(np.arange(40), canvas), gray_source.labels[:40])
    return Online(2, part.images, part, part, classes=2, batch_size=16)


def spied(monkeypatch, seen, owner, name):
    """Has every call of a method or function write down the guards that it runs under."""
    function = getattr(owner, name)

    def call(*args, **options):
        seen.append((name, guards()))
        return function(*args, **options)

    monkeypatch.setattr(owner, name, call)


def test_only_the_dispatch_of_a_step_is_guarded(training, reader, online, tmp_path, monkeypatch):
    seen = []
    dispatched = []
    for owner, names in {
        Checkpoints: ("__init__", "save", "restore", "restore_online", "close"),
        MetricsWriter: ("__init__", "write_scalars", "close"),
        BrokenImages: ("__post_init__", "add"),
        Watch: ("start", "learn", "report"),
        type(next(iter(reader.sources.values()))): ("read",),
        loop: ("initial_state",),
        feed: ("shard_batch",),
    }.items():
        for name in names:
            spied(monkeypatch, seen, owner, name)
    compiled = loop.compiled_step

    def compiled_step(*args, **options):
        step = compiled(*args, **options)

        def dispatch(*arrays):
            dispatched.append(guards())
            return step(*arrays)

        return dispatch

    monkeypatch.setattr(loop, "compiled_step", compiled_step)

    def stop(step, scalars):
        seen.append(("on_step", guards()))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path, stop, online)
    train(training, reader, 0, tmp_path, lambda *_: seen.append(("on_step", guards())), online)
    assert dispatched == [dict.fromkeys(LEVELS, "DISALLOW")] * len(dispatched)
    assert len(dispatched) >= 5
    assert [(name, levels) for name, levels in seen if levels] == []
    expected = {"save", "restore", "restore_online", "close", "write_scalars", "add", "start", "learn", "report", "on_step"}
    assert expected <= {name for name, _ in seen}


def test_the_loop_makes_no_implicit_transfer(training, reader, online, tmp_path, implicit_transfers_raise):
    def read(step, scalars):
        # A callback may look at whatever it likes.
        np.asarray(jnp.ones(3))
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training, reader, 0, tmp_path, read, online)
    state = train(training, reader, 0, tmp_path, online=online)
    assert int(state.step) == 5


@pytest.fixture
def encoder_and_task(random):
    module = PatchMLP(width=8, features=16)
    canvas = (8, 8, 1)
    variables = module.init(jax.random.key(0), jnp.zeros((2, *canvas)), train=False)
    images = random.integers(0, 256, (48, *canvas), np.uint8)
    source = ArraySource("memory:task", images)
    labels = np.arange(48) % 2
    cuts = np.split(np.arange(48), [24, 36])
    parts = [types.SimpleNamespace(source=source, indices=cut, labels=labels[cut]) for cut in cuts]
    task = types.SimpleNamespace(train=parts[0], validation=parts[1], test=parts[2], classes=2, canvas=canvas)
    return PretrainedEncoder(module, {"batch_stats": {}} | variables, canvas, 0.5, 0.25), task


def test_only_the_dispatch_of_a_fine_tuning_step_is_guarded(encoder_and_task, monkeypatch):
    seen = []
    dispatched = []
    compiled = finetune.compiled_step

    def compiled_step(*args):
        step = compiled(*args)
        return lambda *arrays: dispatched.append(guards()) or step(*arrays)

    monkeypatch.setattr(finetune, "compiled_step", compiled_step)
    for name in ("shard_batch", "_scores", "_start"):
        spied(monkeypatch, seen, finetune, name)
    spied(monkeypatch, seen, ArraySource, "read")
    FineTune((0.1,), epochs=2, batch_size=8)(
        *encoder_and_task, METRICS["accuracy"], on_step=lambda *_: seen.append(("on_step", guards()))
    )
    assert dispatched == [dict.fromkeys(LEVELS, "DISALLOW")] * 6
    assert {"shard_batch", "_scores", "on_step"} <= {name for name, _ in seen}
    assert [(name, levels) for name, levels in seen if levels] == []


def test_fine_tuning_makes_no_implicit_transfer(encoder_and_task, implicit_transfers_raise):
    outcome = FineTune((0.1, 0.2), epochs=2, batch_size=8)(
        *encoder_and_task, METRICS["accuracy"], on_step=lambda *_: np.asarray(jnp.ones(3))
    )["finetune"]
    assert len(outcome.predictions) == 12


@pytest.fixture
def transfers(monkeypatch):
    """Counts what moves arrays to the host: `device_get`, and implicit conversions outside of it."""
    count = [0]
    inside = []

    def counted(convert):
        def converted(x, *args, **options):
            count[0] += isinstance(x, ArrayImpl) and not inside
            return convert(x, *args, **options)

        return converted

    device_get = jax.device_get

    def got(x):
        count[0] += 1
        inside.append(1)
        try:
            return device_get(x)
        finally:
            inside.pop()

    monkeypatch.setattr(ArrayImpl, "_value", property(counted(ArrayImpl._value.fget)))
    for name in ("asarray", "array"):
        monkeypatch.setattr(np, name, counted(getattr(np, name)))
    monkeypatch.setattr(jax, "device_get", got)
    return count


# For the probes: which images are finite, the covariance (or the drawn features), validation, and test with the excess.
EVALUATIONS = {
    "linear": (4, lambda many: LinearProbe(LinearProbe().strengths[: 10 if many else 3], iterations=400 if many else 5)),
    "few_shot": (4, lambda many: FewShot((2,), draws=4 if many else 2)),
    "sgd": (2, lambda many: SGDProbe(epochs=4 if many else 2, batch_size=20)),
    "knn": (2, lambda many: KNN((5, 20) if many else (5,))),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_transfers_of_an_evaluation_do_not_depend_on_its_settings_or_data(name, random, transfers, monkeypatch):
    expected, make = EVALUATIONS[name]
    # The search of an accelerator; NumPy's on a CPU has the similarities in its own memory.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(knn, "_MOST_TEST_AT_ONCE", 64)
    for many in (False, True):
        transfers[0] = 0
        make(many)(cluster_splits(random), METRICS["accuracy"])
        assert transfers[0] == expected


def test_features_stay_on_the_device_from_the_encoder_to_the_evaluations(random, transfers, monkeypatch):
    """One number for each split (are all features finite?) and for the rank; the rest are the evaluations' own."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    shape = (8, 8, 1)
    module = PatchMLP(width=8, features=16)
    variables = module.init(jax.random.key(0), jnp.zeros((2, *shape)), train=False)
    images = random.integers(0, 256, (120, *shape), np.uint8)
    task = make_task(ArraySource("memory:task", images, np.arange(120) % 3), None, Canvas(*shape), labelled=0)
    encode = NetworkEncoder(PretrainedEncoder(module, {"batch_stats": {}} | variables, shape), 16)
    # Compilation reads constants such as the mean of the pixels.
    evaluate(encode, task)
    transfers[0] = 0
    evaluate(encode, task)
    assert transfers[0] == 3 + EVALUATIONS["knn"][0] + EVALUATIONS["linear"][0] + 1


@pytest.mark.parametrize("name", ["linear", "few_shot", "sgd"])
def test_the_programs_of_an_evaluation_do_not_depend_on_its_data(name, random):
    easy = cluster_splits(random)
    hard = Splits(*(Split(random.normal(size=each.features.shape).astype(np.float32), each.labels) for each in easy[:3]), 4)
    evaluation = EVALUATIONS[name][1](True)
    evaluation(easy, METRICS["accuracy"])
    compiled = []

    def listener(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        evaluation(hard, METRICS["accuracy"])
        assert not compiled
        jax.clear_caches()
        evaluation(easy, METRICS["accuracy"])
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert 0 < len(compiled) <= 12
