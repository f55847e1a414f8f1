"""NNCLR: as SimCLR, but the positive is the nearest neighbour of a view among the projections of past batches.

References:
  Dwibedi et al., `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations
  <https://arxiv.org/abs/2104.14548>`_, 2021
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from sslshift.arrays import on_any_mesh, unit
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output
from sslshift.methods.queue import enqueued, first_image, gathered
from sslshift.methods.siamese import Siamese, forward, settings_of
from sslshift.models import MLPHead


def nnclr(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    predictor: Sequence[int],
    temperature: float,
    queue: int,
) -> Method:
    """NNCLR on an encoder.

    Args:
      encoder: any encoder.
      views: of an image.
      projector: widths of the projector.
      predictor: hidden widths of the predictor, whose output is as wide as the projector's.
      temperature: of the softmax over the batch.
      queue: number of past projections among which neighbours are sought.

    Raises:
      ValueError: the temperature is not above 0, or the queue empty.
    """
    if temperature <= 0 or queue < 1:
        raise ValueError(f"NNCLR needs a temperature above 0 and a queue of at least 1, not {temperature} and {queue}.")
    settings = settings_of(encoder)
    networks = Siamese(
        encoder,
        MLPHead(projector, batch_norm=True, output_norm="affine", **settings),
        MLPHead((*predictor, projector[-1]), batch_norm=True, **settings),
    )

    def loss(variables, target, views, moment):
        del moment
        ((z1, z2), (p1, p2)), batch_stats = forward(networks, variables, views)
        z1, z2, p1, p2 = (unit(x, dtype=jnp.float32) for x in (z1, z2, p1, p2))
        past = target["queue"]
        contrast = functools.partial(_contrast, temperature=temperature, axis_name=settings["axis_name"])
        value = (contrast(_nearest(z1, past), p2) + contrast(_nearest(z2, past), p1)) / 2
        # The first views enter the queue, the oldest leave it.
        return value, Output(batch_stats, {"queue": enqueued(past, z1, settings["axis_name"])})

    def init_target(variables):
        del variables
        # The same for every run: all of it has left the queue after queue / batch steps.
        return {"queue": unit(jax.random.normal(jax.random.key(0), (queue, projector[-1])))}

    return Method(views, networks, loss, init_target)


@on_any_mesh(batch_axis=0)
def _nearest(z, past):
    return past[jnp.argmax(lax.stop_gradient(z) @ past.T, axis=1)]


@on_any_mesh
def _contrast(neighbours, predictions, *, temperature, axis_name):
    """Each neighbour finds the prediction of its own image among those of the global batch."""
    everyone = gathered(predictions, axis_name)
    logits = jnp.matmul(neighbours, everyone.T, precision=lax.Precision.HIGHEST) / temperature
    own = first_image(neighbours, axis_name) + jnp.arange(len(logits))
    return optax.softmax_cross_entropy_with_integer_labels(logits, own).mean()
