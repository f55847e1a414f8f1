"""NNCLR: like SimCLR, but the positive is the nearest neighbour of a view among the projections of past batches.

References:
  Dwibedi et al., `With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual Representations
  <https://arxiv.org/abs/2104.14548>`_, 2021
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift import losses
from sslshift.arrays import unit
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, enqueued, forward, settings_of
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
    """Returns NNCLR on an encoder.

    Args:
      encoder: any encoder.
      views: settings of the views of an image.
      projector: widths of the projector.
      predictor: hidden widths of the predictor, whose output is as wide as the projector's.
      temperature: temperature of the softmax over the batch.
      queue: number of past projections that neighbours are chosen from.

    Raises:
      ValueError: the temperature is not above 0, or the queue is empty.
    """
    if temperature <= 0 or queue < 1:
        raise ValueError(f"Expected a temperature above 0 and a queue of at least 1 for NNCLR, got {temperature} and {queue}.")
    settings = settings_of(encoder)
    networks = Siamese(
        encoder,
        MLPHead(projector, batch_norm=True, output_norm="affine", **settings),
        MLPHead((*predictor, projector[-1]), batch_norm=True, **settings),
    )

    def loss(variables, target, views, context):
        del context
        ((z1, z2), (p1, p2)), batch_stats = forward(networks, variables, views)
        # The queue is searched before this batch enters it: otherwise every image would be its own nearest neighbour.
        past = target["queue"]
        one_way = functools.partial(losses.nnclr, queue=past, temperature=temperature, axis_name=settings["axis_name"])
        # The embeddings of the first views enter the queue, and the oldest embeddings leave it.
        # Embeddings enter at length 1, since the loss does not normalise the long queue again in each step.
        newest = enqueued(past, unit(z1, dtype=jnp.float32), settings["axis_name"])
        return (one_way(z1, p2) + one_way(z2, p1)) / 2, Output(batch_stats, {"queue": newest})

    def init_target(variables):
        del variables
        # Equal for all runs, since after queue / batch steps all initial entries have left the queue.
        return {"queue": unit(jax.random.normal(jax.random.key(0), (queue, projector[-1])))}

    return Method(views, networks, loss, init_target, coupled="NNCLR contrasts every image with the others of its batch")
