"""LARS as the methods' recipes mean it: optax's has no clipping, without which their learning rates mean something else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

PyTree = Any


class _Count(NamedTuple):
    count: jax.Array


def clipped_lars(
    schedule: optax.Schedule, weight_decay: float, mask: Any, *, momentum: float = 0.9, trust_coefficient: float = 0.02
) -> optax.GradientTransformation:
    """LARS whose trust ratio only ever lowers a layer's learning rate (also known as LARC with clipping).

    Where the mask is True and neither norm is 0, the gradient g of a tensor p becomes min(q / rate, 1) * (g + decay * p) with
    q = trust * |p| / (|g| + decay * |p|); elsewhere it stays. Momentum and the learning rate follow.

    Args:
      schedule: learning rate by step.
      weight_decay: on masked tensors.
      mask: params to a tree of booleans.
      momentum: of the averaged gradient.
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
            ratio = trust_coefficient * p_norm / (g_norm + weight_decay * p_norm + 1e-8)
            clipped = jnp.minimum(ratio, rate) / jnp.maximum(rate, 1e-12) * (g + weight_decay * p)
            return jnp.where((g_norm > 0) & (p_norm > 0), clipped, g)

        return jax.tree.map(scaled, gradient, params, mask(params)), _Count(state.count + 1)

    trust = optax.GradientTransformation(lambda params: _Count(jnp.zeros((), jnp.int32)), update)
    return optax.chain(trust, optax.trace(momentum), optax.scale_by_learning_rate(schedule))
