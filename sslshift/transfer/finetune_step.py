"""One step of fine-tuning and the scores of the trained network, as pure functions that are compiled over a mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sslshift.data.views import MEAN, STD, ViewSettings, make_view, normalise
from sslshift.training.optimiser import Optimiser
from sslshift.transfer.mixing import label_vectors, mix_pairs, share_map

PyTree = Any


class LabelledBatch(NamedTuple):
    """Images with their labels.

    Attributes:
      images: uint8 `[batch, height, width, channels]`.
      labels: int32 `[batch]`, or 0/1 `[batch, classes]`.
      weights: float32 `[batch]`; 0 for an image that replaces an unreadable one and has a wrong label, else 1.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class FineTuneState(flax.struct.PyTreeNode):
    """State that a step updates; `finite` is true if all losses so far were finite."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    optimiser: PyTree
    finite: jax.Array


@dataclasses.dataclass(frozen=True)
class Network:
    """An encoder's module with a linear head and the settings of its training; equal networks share compiled code.

    Args:
      module: module of the encoder, called with normalised images and `train=`.
      mean, std: mean and standard deviation of the normalisation, each a number or one number for each channel.
      classes: number of classes.
      view: settings of the augmentation of training images.
      optimiser: settings of the optimiser; its learning rate is replaced by an argument of `finetune_step`.
      steps: number of steps of the whole training.
      batch_size: number of images in a batch, over all devices.
      label_smoothing, mixup, cutmix: see `mixing`.
      frozen_norm: whether batch norm keeps the encoder's statistics, scales and offsets.
    """

    module: nn.Module
    # Tuples instead of arrays, because a network is the key of a cache of compiled functions and must be hashable.
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    classes: int
    view: ViewSettings
    optimiser: Optimiser
    steps: int
    batch_size: int
    label_smoothing: float
    mixup: float
    cutmix: float
    frozen_norm: bool

    def normalised(self, views: jax.Array) -> jax.Array:
        """Returns views with the encoder's own normalisation in place of this package's."""
        mean, std = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in (self.mean, self.std))
        return views * (STD / std) + (MEAN - mean) / std

    def logits(self, params: PyTree, batch_stats: PyTree, x: jax.Array, key: jax.Array | None) -> tuple[jax.Array, PyTree]:
        """Returns logits float32 `[batch, classes]` of normalised images, and new statistics; `key` is None in evaluation."""
        variables = {"params": params["encoder"], "batch_stats": batch_stats}
        # Frozen batch norm runs in evaluation mode even during training; drop path still needs its key.
        train = key is not None and not self.frozen_norm
        rngs = None if key is None else {"drop_path": key}
        features, changed = self.module.apply(variables, x, train=train, mutable=["batch_stats"], rngs=rngs)
        logits = features.astype(jnp.float32) @ params["head"]["kernel"] + params["head"]["bias"]
        return logits, changed.get("batch_stats", batch_stats)

    def init(self, variables: PyTree, images: jax.ShapeDtypeStruct) -> FineTuneState:
        """Returns the state before step 0, with copies of the encoder's variables.

        The head is initialised to 0, so that its first step uses the features as they are.

        Args:
          variables: `params` and, if there are any, `batch_stats` of the encoder.
          images: shape of a batch.
        """
        # The variables are copied, because steps donate the buffers of the state.
        copied = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), dict(variables))
        features = jax.eval_shape(functools.partial(self.module.apply, train=False), variables, images)
        head = {"kernel": jnp.zeros((features.shape[-1], self.classes)), "bias": jnp.zeros(self.classes)}
        params = {"encoder": copied["params"], "head": head}
        optimiser = self.optimiser.build(self.steps, self.batch_size).init(params)
        return FineTuneState(jnp.zeros((), jnp.int32), params, copied.get("batch_stats", {}), optimiser, jnp.array(True))


def finetune_step(
    state: FineTuneState, batch: LabelledBatch, rate: jax.Array, key: jax.Array, *, network: Network
) -> tuple[FineTuneState, jax.Array]:
    """Returns the state after one step (augmentation, loss, gradient and update), and the loss.

    Args:
      state: state before the step.
      batch: the global batch.
      rate: peak learning rate for a batch of 256 images.
      key: PRNG key of the training; the step's key is derived from it and the step number.
      network: the network and the settings of its training.

    Returns:
      The state after the step, and the loss: cross-entropy, or mean binary cross-entropy if images have several labels.
    """
    views, mixing, dropping = jax.random.split(jax.random.fold_in(key, state.step), 3)
    x = network.normalised(make_view(views, batch.images, network.view))
    targets = label_vectors(batch.labels, network.classes, network.label_smoothing)
    weights = batch.weights
    if network.mixup or network.cutmix:
        own = share_map(mixing, *x.shape[1:3], mixup=network.mixup, cutmix=network.cutmix)
        x, targets = mix_pairs(x, targets, own)
        # A mixed image also has the label of its partner, so it counts only if both images are readable.
        weights = weights * weights[::-1]

    def loss_of(params):
        logits, batch_stats = network.logits(params, state.batch_stats, x, dropping)
        if batch.labels.ndim == 1:
            losses = optax.softmax_cross_entropy(logits, targets)
        else:
            losses = optax.sigmoid_binary_cross_entropy(logits, targets).mean(axis=1)
        # The maximum keeps the loss of a batch without any readable image at 0 instead of nan.
        return jnp.sum(weights * losses) / jnp.maximum(weights.sum(), 1.0), batch_stats

    (loss, batch_stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    optimiser = network.optimiser.build(network.steps, network.batch_size, rate=rate)
    updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    # Even with frozen statistics, the gradient and weight decay would change scales and offsets.
    if network.frozen_norm:
        params["encoder"] = _keep_norms(state.params["encoder"], params["encoder"], state.batch_stats)
    # `finite` stays on the device, because reading every loss would make the host wait for every step.
    return FineTuneState(state.step + 1, params, batch_stats, optimiser_state, state.finite & jnp.isfinite(loss)), loss


def _keep_norms(old: PyTree, new: PyTree, batch_stats: PyTree) -> PyTree:
    """Returns the new parameters, with the old ones in every layer that has batch statistics."""
    old = traverse_util.flatten_dict(old)
    new = traverse_util.flatten_dict(new)
    norms = {path[:-1] for path in traverse_util.flatten_dict(batch_stats)}
    return traverse_util.unflatten_dict({path: old[path] if path[:-1] in norms else leaf for path, leaf in new.items()})


# Cached: the fine-tuning runs of a study share one program, and compiling can take longer than a short run.
@functools.lru_cache(maxsize=8)
def compiled_step(network: Network, mesh: Mesh) -> Callable[..., tuple[FineTuneState, jax.Array]]:
    """Returns `finetune_step`, jitted over the mesh: the state is replicated and donated, the batch is split."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    step = functools.partial(finetune_step, network=network)
    shardings = (everywhere, split, everywhere, everywhere)
    # The state is donated, so that only one copy is in memory.
    return jax.jit(step, in_shardings=shardings, out_shardings=everywhere, donate_argnums=0)


@functools.lru_cache(maxsize=8)
def compiled_scores(network: Network, mesh: Mesh) -> Callable[[PyTree, PyTree, jax.Array], jax.Array]:
    """Returns a function from parameters, batch statistics and uint8 images to logits, jitted over the mesh."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))

    def scores(params, batch_stats, images):
        return network.logits(params, batch_stats, network.normalised(normalise(images)), None)[0]

    return jax.jit(scores, in_shardings=(everywhere, everywhere, split), out_shardings=everywhere)
