"""Barlow Twins: training brings the cross-correlation matrix of two views' dimensions close to the identity.

References:
  Zbontar et al., `Barlow Twins: Self-Supervised Learning via Redundancy Reduction <https://arxiv.org/abs/2103.03230>`_, 2021
"""

from collections.abc import Sequence

import flax.linen as nn

from sslshift import losses
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, forward, settings_of
from sslshift.models import MLPHead


def barlow_twins(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    off_diagonal_weight: float,
    scale: float,
) -> Method:
    """Returns Barlow Twins on an encoder; `projector` gives the widths of its head."""
    settings = settings_of(encoder)
    # The output has no batch norm, since the loss standardises it.
    networks = Siamese(encoder, MLPHead(projector, batch_norm=True, **settings))

    def loss(variables, target, views, context):
        del target, context
        (z1, z2), batch_stats = forward(networks, variables, views)
        value = losses.barlow_twins(
            z1, z2, off_diagonal_weight=off_diagonal_weight, scale=scale, axis_name=settings["axis_name"]
        )
        return value, Output(batch_stats)

    return Method(views, networks, loss, coupled="Barlow Twins correlates dimensions over the images of a batch")
