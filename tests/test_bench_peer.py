"""The comparison of a training step with another framework: its refusals, its turns, and the peer's networks and loss."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sslshift.methods import METHODS
from sslshift.methods.base import StepContext
from sslshift.models import ENCODERS
from tools import bench_peer, bench_turns
from tools.bench_turns import PeerCase, compare

CASE = PeerCase("patch_mlp", "float32", 28, 8)


def show(*_, **__):
    raise AssertionError("nothing is measured")


@pytest.mark.parametrize(
    ("peer", "given", "message"),
    [
        ("tensorflow", {}, "--peer: expected one of torch, got 'tensorflow'."),
        (
            "torch",
            {"encoder": "patch_mlp"},
            "--encoder: expected one of resnet18_cifar, resnet50, vit_b16 with --peer, got",
        ),
    ],
)
def test_unknown_names_are_refused(peer, given, message):
    with pytest.raises(ValueError, match=message):
        bench_peer.measure(show, peer, 1, given)


def test_a_peer_that_is_not_installed_is_reported_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"^--peer=torch needs torch, .* not installed: pip install 'sslshift\[peer\]'\.$"):
        bench_peer.measure(show, "torch", 1, {})


class Fake:
    """A peer that records the calls of both sides' steps."""

    parameters = 0
    version = "fake 1"
    notes = "without compilation"

    def __init__(self, case, *, projector, temperature):
        assert (case, projector, temperature) == (CASE, (2048, 256), 0.2)
        self.released = 0

    def steps(self, count):
        del count

    def release(self):
        self.released += 1

    def peak_bytes(self):
        return 3 * 2**30


@pytest.fixture
def parameters(monkeypatch):
    method = METHODS["simclr"].build(ENCODERS["patch_mlp"])
    params = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 28, 28, 3), jnp.uint8))["params"]
    monkeypatch.setattr(Fake, "parameters", sum(leaf.size for leaf in jax.tree.leaves(params)))


@pytest.mark.usefixtures("parameters")
def test_both_sides_take_turns_of_equal_duration(monkeypatch):
    # Step times of a clock by hand: ours take 0.1, 0.1, 0.2 and 0.4 s, the peer's always 0.25 s.
    ours = iter([0.1, 0.1, 0.2, 0.4])
    turns = []

    def seconds(steps, count):
        peer = isinstance(getattr(steps, "__self__", None), Fake)
        turns.append(("peer" if peer else "ours", count))
        return count * (0.25 if peer else next(ours))

    monkeypatch.setattr(bench_turns, "_seconds", seconds)
    line = compare(Fake, CASE, repeats=3, turn=2.0)
    assert turns == [("ours", 1), ("peer", 1), *[("ours", 20), ("peer", 8)] * 3]
    assert line["ours_samples_per_s"] == pytest.approx(8 / 0.2)
    assert line["peer_samples_per_s"] == pytest.approx(8 / 0.25)
    assert (line["lowest_ratio"], line["ratio"], line["highest_ratio"]) == pytest.approx((0.25 / 0.4, 0.25 / 0.2, 0.25 / 0.1))
    assert (line["peer_peak_gib"], line["notes"]) == (3.0, "without compilation")
    assert line["versions"] == f"jax {jax.__version__}, fake 1"


def test_networks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"Expected [\d,]+ parameters in the peer's networks, got 0\."):
        compare(Fake, CASE, repeats=1)


def test_another_attention_holds_for_the_steps_that_are_compiled_in_its_context_alone(monkeypatch):
    asked = []
    ours = jax.nn.dot_product_attention
    # No cuDNN here: the attention of XLA takes its place.

    def attention(*qkv, implementation=None):
        asked.append(implementation)
        return ours(*qkv)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    encoder = ENCODERS["vit_nano4"]
    images = jnp.ones((2, 8, 8, 3))
    with bench_turns._attention("cudnn"):
        within = encoder.init_with_output(jax.random.key(0), images, train=False)[0]
    after = encoder.init_with_output(jax.random.key(0), images, train=False)[0]
    assert asked == ["cudnn"] * encoder.depth + [None] * encoder.depth
    np.testing.assert_array_equal(within, after)


@pytest.mark.parametrize(
    ("given", "skipped"),
    [
        ({"encoder": "resnet50", "dtype": "bfloat16"}, "CPUs compute in float32"),
        ({"encoder": "vit_b16", "dtype": "float32", "attention": "cudnn"}, "cuDNN's attention is for a ViT in bfloat16"),
    ],
)
def test_what_this_device_cannot_show_is_skipped_with_a_reason(given, skipped):
    lines = []
    bench_peer._measure_one(lambda what, **line: lines.append(line), "torch", 1, given, forced=False)
    (line,) = lines
    assert skipped in line["skipped"]
    assert (line["encoder"], line["side"], line["batch"]) == (given["encoder"], 224, 4)


@pytest.mark.parametrize("name", bench_peer.SIZES)
def test_the_peer_has_the_parameters_of_our_networks(name):
    torch = pytest.importorskip("torch")
    from tools.peer_torch import Networks

    method = METHODS["simclr"].build(ENCODERS[name])
    ours = jax.eval_shape(method.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.uint8))["params"]
    # Without values, which would need a gigabyte.
    with torch.device("meta"):
        theirs = dict(Networks(name, (2048, 256), 224).named_parameters())
    sizes = {_torch_name(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(ours)}
    assert sizes == {each: parameter.numel() for each, parameter in theirs.items()}


# Shallow networks of the same kinds: every layer of the others is one of theirs.
SHALLOW = {
    "resnet18_cifar": ((1, 1, 0, 0), {"bottleneck": False, "small_images": True}),
    "resnet50": ((1, 1, 0, 0), {"bottleneck": True, "small_images": False}),
    "vit_b16": ((), {"width": 32, "depth": 2, "heads": 4, "patch": 16}),
}


@pytest.mark.parametrize("name", SHALLOW)
def test_the_peer_has_our_loss_and_our_gradient(name, monkeypatch):
    """With our weights and views, the peer's loss and gradient in training mode are ours."""
    torch = pytest.importorskip("torch")
    from tools import peer_torch

    monkeypatch.setattr(torch, "compile", lambda function: function)
    depths, settings = SHALLOW[name]
    encoder = ENCODERS[name].clone(**({"depths": depths} if depths else settings))
    shallow = functools.partial(peer_torch.NETWORKS[name].func, *filter(None, [depths]), **settings)
    monkeypatch.setitem(peer_torch.NETWORKS, name, shallow)
    options = {"projector": (24, 16), "temperature": 0.2}
    method = METHODS["simclr"].build(encoder, **options)
    keys = jax.random.split(jax.random.key(0), 3)
    variables = jax.jit(method.init)(keys[0], jnp.zeros((2, 32, 32, 3), jnp.uint8))
    # Residual branches start at 0, which would hide their parts.
    variables["params"] = jax.tree.map(
        lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables["params"]
    )
    views = tuple(jax.random.normal(key, (4, 32, 32, 3)) for key in keys[1:])
    context = StepContext(jax.random.split(keys[0], 4), jnp.zeros(()))

    def loss_of(params):
        return method.loss(variables | {"params": params}, (), views, context)[0]

    loss, gradient = jax.jit(jax.value_and_grad(loss_of))(variables["params"])
    peer = peer_torch.Peer(PeerCase(name, "float32", 32, 4), **options)
    theirs = dict(peer.networks.named_parameters())
    with torch.no_grad():
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
            parameter = theirs[_torch_name(path)]
            parameter.copy_(torch.from_numpy(_torch_layout(np.asarray(leaf), tuple(parameter.shape))))
    peer.optimiser.zero_grad()
    images = torch.from_numpy(np.moveaxis(np.concatenate(views), 3, 1).copy())
    their_loss = peer.networks.loss(images, options["temperature"], False)
    their_loss.backward()
    assert their_loss.item() == pytest.approx(float(loss), rel=1e-5)
    norm = float(optax.global_norm(gradient))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        parameter = theirs[_torch_name(path)]
        expected = _torch_layout(np.asarray(leaf), tuple(parameter.shape))
        np.testing.assert_allclose(parameter.grad.numpy(), expected, atol=1e-4 * norm, err_msg=_torch_name(path))


def _torch_name(path) -> str:
    names = [part.key for part in path]
    kinds = {"kernel": "weight", "scale": "weight", "bias": "bias"}
    return ".".join([*names[:-1], kinds[names[-1]]] if names[-1] in kinds else names)


def _torch_layout(leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 4:
        # A kernel [height, width, channels, features]; a ViT's embedding has its patch in one axis.
        leaf = leaf.reshape(*shape[2:], shape[1], shape[0]).transpose(3, 2, 0, 1)
    return leaf.T.copy() if len(shape) == 2 else leaf.copy()
