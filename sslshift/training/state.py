"""The training state and its optimiser."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from sslshift.methods import Method
from sslshift.models import layer_numbers
from sslshift.training.lars import clipped_lars

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Optimiser:
    """An optimiser and its schedule, per step: a linear warm-up to the peak, then a cosine that ends at 0 after the last step.

    Args:
      name: `adamw`, `lars` (see `clipped_lars`) or `sgd` (both with momentum 0.9).
      learning_rate: at a batch of 256; it is multiplied by batch / 256.
      weight_decay: on weights alone, not on biases, norms and positions.
      warmup: share of the steps.
      beta2: of adamw's second moment.
      layer_decay: factor on the learning rate for every layer that lies further down, by `models.layer_numbers`.
    """

    name: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.1
    beta2: float = 0.999
    layer_decay: float = 1.0

    def __post_init__(self):
        if self.name not in ("adamw", "lars", "sgd"):
            raise ValueError(f"No optimiser is called {self.name!r}; there is adamw, lars, sgd.")
        if not 0 < self.learning_rate < float("inf") or not 0 <= self.warmup < 1 or not self.weight_decay >= 0:
            raise ValueError(f"Learning rate > 0, weight decay >= 0 and warm-up in [0, 1) are needed, not {self}.")
        if not 0 <= self.beta2 < 1 or not 0 < self.layer_decay <= 1:
            raise ValueError(f"A beta2 in [0, 1) and a layer decay in (0, 1] are needed, not {self}.")

    def build(
        self, steps: int, batch_size: int, constant_rate: tuple[str, ...] = (), rate: jax.Array | None = None
    ) -> optax.GradientTransformation:
        """The optax transformation for a run.

        Args:
          steps: of the run.
          batch_size: over all devices.
          constant_rate: networks (first level of the parameters) whose learning rate stays at its peak.
          rate: in place of `learning_rate`; it may be traced, so that one compiled step serves many of them.
        """
        peak = (self.learning_rate if rate is None else rate) * batch_size / 256
        # Neither the first nor the last step has a rate of 0, which would waste its samples.
        warmup = min(round(self.warmup * steps), steps - 1)
        rise = optax.linear_schedule(peak / max(1, warmup), peak, warmup - 1)
        schedule = optax.join_schedules([rise, optax.cosine_decay_schedule(peak, steps - warmup)], [warmup])
        transformation = self._at(schedule)
        if constant_rate:
            parts = {"scheduled": transformation, "constant": self._at(optax.constant_schedule(peak))}

            def labels(params):
                return {name: "constant" if name in constant_rate else "scheduled" for name in params}

            transformation = optax.partition(parts, labels)
        if self.layer_decay == 1:
            return transformation
        return optax.chain(transformation, optax.stateless(self._decay_layers))

    def _at(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        if self.name == "adamw":
            return optax.adamw(schedule, b2=self.beta2, weight_decay=self.weight_decay, mask=_weights)
        if self.name == "lars":
            return clipped_lars(schedule, self.weight_decay, _weights)
        return optax.chain(optax.add_decayed_weights(self.weight_decay, _weights), optax.sgd(schedule, momentum=0.9))

    def _decay_layers(self, updates: PyTree, params: PyTree) -> PyTree:
        numbers = layer_numbers(params)
        last = max(jax.tree.leaves(numbers))
        return jax.tree.map(lambda update, number: update * self.layer_decay ** (last - number), updates, numbers)


def _weights(params: PyTree) -> PyTree:
    """True for the weights among the parameters: matrices and kernels, but not learned positions."""
    return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim > 1 and path[-1].key != "positions", params)


class TrainState(flax.struct.PyTreeNode):
    """Everything that changes from step to step; there is no random state, a step's key follows from its number."""

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    target: PyTree
    optimiser: PyTree

    @property
    def variables(self) -> PyTree:
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(method: Method, optimiser: optax.GradientTransformation, key: jax.Array, image: jax.Array) -> TrainState:
    """The state before step 0 for uint8 images like `image`, `[height, width, channels]`."""
    # Two images, since a batch statistic of one is undefined.
    variables = method.init(key, jnp.stack([image, image]))
    params = variables["params"]
    target = method.init_target(variables)
    return TrainState(jnp.zeros((), jnp.int32), params, variables["batch_stats"], target, optimiser.init(params))
