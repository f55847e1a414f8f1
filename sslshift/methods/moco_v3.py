"""MoCo v3: the prediction from one view identifies the target's projection of the other view among those of the batch.

References:
  Chen et al., `An Empirical Study of Training Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.02057>`_, 2021
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift.data.views import ViewSettings
from sslshift.losses import info_nce
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, copy_networks, follow, forward, settings_of
from sslshift.models import MLPHead, ViT


def moco_v3(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    predictor: Sequence[int],
    prediction_norm: bool,
    frozen_embedding: bool,
    temperature: float,
    momentum: float,
) -> Method:
    """Returns MoCo v3 on an encoder.

    Args:
      encoder: any encoder.
      views: settings of the views of an image.
      projector: widths of the projector.
      predictor: hidden widths of the predictor, whose output is as wide as the projector's.
      prediction_norm: whether the predictor ends in a batch norm, as in the paper's ViTs.
      frozen_embedding: whether a ViT's embedding of patches keeps its random initial values, which makes training stable.
      temperature: temperature of the softmax over the batch.
      momentum: momentum of the target network, rising to 1 over the run.

    Raises:
      ValueError: `frozen_embedding` is True, and the encoder has no embedding of patches.
    """
    if frozen_embedding and not isinstance(encoder, ViT):
        raise ValueError(f"Expected a ViT, whose patches are embedded, for frozen_embedding, got {type(encoder).__name__}.")
    output_norm = "plain" if prediction_norm else "none"
    settings = settings_of(encoder)
    # As in solo-learn: no biases in the outputs, and a last norm of the projector without scale and offset.
    networks = Siamese(
        encoder,
        MLPHead(projector, batch_norm=True, output_norm="plain", **settings),
        MLPHead((*predictor, projector[-1]), batch_norm=True, output_norm=output_norm, output_bias=False, **settings),
    )

    def loss(variables, target, views, context):
        del context
        (_, (p1, p2)), batch_stats = forward(networks, variables, views)
        # `info_nce` stops the gradient at these keys.
        (k1, k2), target_stats = forward(networks, target, views, "project")
        one_way = functools.partial(info_nce, temperature=temperature, axis_name=settings["axis_name"])
        return one_way(p1, k2) + one_way(p2, k1), Output(batch_stats, target | {"batch_stats": target_stats})

    def freeze(gradient, progress):
        del progress
        if not frozen_embedding:
            return gradient
        encoder_gradient = gradient["encoder"]
        still = jax.tree.map(jnp.zeros_like, encoder_gradient["embed"])
        return gradient | {"encoder": encoder_gradient | {"embed": still}}

    coupled = "MoCo v3 contrasts every image with the others of its batch"
    return Method(views, networks, loss, copy_networks, follow(momentum), freeze, coupled=coupled)
