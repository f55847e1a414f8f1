"""Optimisers and their schedules, and the variant of LARS that the recipes of the methods use."""

import dataclasses
import functools
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any

OPTIMISERS = ("adamw", "lars", "sgd")


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """An optimiser and its schedule, per step: a linear warm-up to the peak, then a cosine that ends at 0 after the last step.

    Args:
      name: `adamw`, `lars` (see `clipped_lars`) or `sgd` (both with momentum 0.9).
      learning_rate: peak learning rate for a batch of 256; it is multiplied by batch / 256.
      weight_decay: weight decay of the weights, not of biases, norms and positions.
      warmup: share of the steps in which the learning rate rises.
      beta2: decay of adamw's second moment.
      layer_decay: factor on the learning rate for every layer further from the output, see `layer_numbers`.
      encoder_rate: factor on the learning rate of the encoder; its heads learn at the full rate.

    Raises:
      ValueError: the name is unknown, or a number is out of its range.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    beta2: float = 0.999
    layer_decay: float = 1.0
    encoder_rate: float = 1.0

    def __post_init__(self):
        if self.name not in OPTIMISERS:
            raise ValueError(f"Expected one of {', '.join(OPTIMISERS)} for the optimiser, got {self.name!r}.")
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.warmup < 1 or not self.weight_decay >= 0:
            raise ValueError(
                f"Expected a learning rate above 0, a weight decay of at least 0 and a warm-up in [0, 1), got {self}."
            )
        if not 0 <= self.beta2 < 1 or not 0 < self.layer_decay <= 1 or not 0 < self.encoder_rate <= 1:
            raise ValueError(
                f"Expected a beta2 in [0, 1), a layer decay in (0, 1] and an encoder's rate in (0, 1], got {self}."
            )

    def build(
        self, steps: int, batch_size: int, constant_rate: tuple[str, ...] = (), rate: jax.Array | None = None
    ) -> optax.GradientTransformation:
        """Returns the optax transformation of a run.

        Args:
          steps: number of steps of the run.
          batch_size: size of the batch over all devices.
          constant_rate: networks (first level of the parameters) whose learning rate stays at its peak.
          rate: learning rate that replaces `learning_rate`; it may be traced, so that one compiled step works for many rates.
        """
        peak = (self.learning_rate if rate is None else rate) * batch_size / 256
        # Neither the first nor the last step has a rate of 0, which would waste its samples.
        warmup = min(round(self.warmup * steps), steps - 1)
        rise = optax.linear_schedule(peak / max(1, warmup), peak, warmup - 1)
        # The cosine keeps at least one step, since optax raises an error for a decay over 0 steps.
        schedule = optax.join_schedules([rise, optax.cosine_decay_schedule(peak, steps - warmup)], [warmup])
        transformation = self._at(schedule)
        if constant_rate:
            # SimSiam keeps the rate of its predictor at the peak, so that the predictor can follow the changing projections.
            parts = {"scheduled": transformation, "constant": self._at(optax.constant_schedule(peak))}

            def labels(params):
                return {name: "constant" if name in constant_rate else "scheduled" for name in params}

            transformation = optax.partition(parts, labels)
        if self.layer_decay == self.encoder_rate == 1:
            return transformation
        # The factor comes after the optimiser, since adamw and lars would cancel a factor on the gradient.
        return optax.chain(transformation, optax.stateless(self._decay_layers))

    def _at(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        if self.name == "adamw":
            return optax.adamw(schedule, b2=self.beta2, weight_decay=self.weight_decay, mask=_weights)
        if self.name == "lars":
            return clipped_lars(schedule, self.weight_decay, _weights)
        # Weight decay comes before the momentum, as in PyTorch's SGD, for which the recipes' values were chosen.
        return optax.chain(optax.add_decayed_weights(self.weight_decay, _weights), optax.sgd(schedule, momentum=0.9))

    def _decay_layers(self, updates: PyTree, params: PyTree) -> PyTree:
        numbers = layer_numbers(params)
        last = max(jax.tree.leaves(numbers))

        def scaled(path, update, number):
            return update * self.layer_decay ** (last - number) * (self.encoder_rate if path[0].key == "encoder" else 1.0)

        return jax.tree_util.tree_map_with_path(scaled, updates, numbers)


@functools.lru_cache(maxsize=64)
def built(optimiser: Optimiser, steps: int, batch_size: int, constant_rate: tuple[str, ...]) -> optax.GradientTransformation:
    """Returns the result of `Optimiser.build`, the same object for equal settings: runs that use it share a compiled step."""
    return optimiser.build(steps, batch_size, constant_rate)


def _weights(params: PyTree) -> PyTree:
    """Returns True for the weights among the parameters: matrices and kernels, but not learned positions."""
    return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim > 1 and path[-1].key != "positions", params)


def layer_numbers(params: PyTree) -> PyTree:
    """Returns one number per leaf: 0 for the stem, embedding and positions, i + 1 for block i, blocks + 1 for all later layers.

    Args:
      params: parameters of networks with an `encoder`; all parameters outside of it count as layers after the last block.

    Raises:
      ValueError: there is no encoder.
    """
    if "encoder" not in params:
        raise ValueError(f"Layers are counted from the parameters of an 'encoder', got parameters of {', '.join(params)}.")
    blocks = [int(match[1]) for name in params["encoder"] if (match := re.fullmatch(r"block(\d+)", name))]
    last = max(blocks, default=-1) + 2

    def number(path, leaf):
        del leaf
        names = [entry.key for entry in path]
        # An encoder's last norm acts on the output of the last block.
        if names[0] != "encoder" or names[1] == "norm":
            return last
        match = re.fullmatch(r"block(\d+)", names[1])
        return int(match[1]) + 1 if match else 0

    return jax.tree_util.tree_map_with_path(number, params)


class _Count(NamedTuple):
    count: jax.Array


# The defaults come from solo-learn, for which the learning rates of the recipes were chosen.
def clipped_lars(
    schedule: optax.Schedule, weight_decay: float, mask: Any, *, momentum: float = 0.9, trust_coefficient: float = 0.02
) -> optax.GradientTransformation:
    """Returns LARS whose trust ratio can only lower a layer's learning rate (also known as LARC with clipping).

    Where the mask is True and neither norm is 0, the gradient g of a tensor p becomes min(q / rate, 1) * (g + decay * p) with
    q = trust * |p| / (|g| + decay * |p|); elsewhere it does not change. Momentum and the learning rate are applied afterwards.
    The LARS of optax has no such clipping, so the recipes would need other learning rates with it.

    Args:
      schedule: learning rate by step.
      weight_decay: weight decay of the tensors where the mask is True.
      mask: function from the parameters to a tree of booleans.
      momentum: momentum of the averaged gradient.
      trust_coefficient: a layer's largest step relative to its norm.

    References:
      You et al., `Large Batch Training of Convolutional Networks <https://arxiv.org/abs/1708.03888>`_, 2017
    """

    def update(gradient: PyTree, state: _Count, params: PyTree):
        rate = schedule(state.count)

        def scaled(g, p, trusted):
            if not trusted:
                return g
            g_norm = optax.safe_norm(g, 0.0)
            p_norm = optax.safe_norm(p, 0.0)
            # The 1e-8 is solo-learn's.
            ratio = trust_coefficient * p_norm / (g_norm + weight_decay * p_norm + 1e-8)
            # The next transformation multiplies by the rate again; a schedule may reach 0.
            clipped = jnp.minimum(ratio, rate) / jnp.maximum(rate, 1e-12) * (g + weight_decay * p)
            # The trust ratio of a tensor of zeros is 0; scaled by this ratio, the tensor would stay 0.
            return jnp.where((g_norm > 0) & (p_norm > 0), clipped, g)

        return jax.tree.map(scaled, gradient, params, mask(params)), _Count(state.count + 1)

    trust = optax.GradientTransformation(lambda params: _Count(jnp.zeros((), jnp.int32)), update)
    return optax.chain(trust, optax.trace(momentum), optax.scale_by_learning_rate(schedule))
