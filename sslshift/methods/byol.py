"""BYOL: from one view, the network predicts the target network's projection of the other view; there are no negatives.

References:
  Grill et al., `Bootstrap your own latent <https://arxiv.org/abs/2006.07733>`_, 2020
"""

from collections.abc import Sequence

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.losses import negative_cosine
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, copy_networks, follow, forward, settings_of
from sslshift.models import MLPHead


def byol(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    predictor: Sequence[int],
    momentum: float,
) -> Method:
    """Returns BYOL on an encoder.

    Args:
      encoder: any encoder.
      views: settings of the views of an image.
      projector: widths of the projector.
      predictor: hidden widths of the predictor, whose output is as wide as the projector's.
      momentum: momentum of the target network, rising to 1 over the run.
    """
    networks = Siamese(
        encoder,
        MLPHead(projector, batch_norm=True, **settings_of(encoder)),
        MLPHead((*predictor, projector[-1]), batch_norm=True, **settings_of(encoder)),
    )

    def loss(variables, target, views, context):
        del context
        (_, (p1, p2)), batch_stats = forward(networks, variables, views)
        (z1, z2), target_stats = forward(networks, target, views, "project")
        # The paper's loss of a direction is 2 - 2 cos. `negative_cosine` itself stops the gradient at the targets.
        value = 4 + 2 * negative_cosine(p1, z2) + 2 * negative_cosine(p2, z1)
        return value, Output(batch_stats, target | {"batch_stats": target_stats})

    return Method(views, networks, loss, copy_networks, follow(momentum), coupled="")
