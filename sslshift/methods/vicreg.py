"""VICReg: views of an image agree, every dimension varies, and no two dimensions are correlated.

References:
  Bardes et al., `VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning
  <https://arxiv.org/abs/2105.04906>`_, 2022
"""

from collections.abc import Sequence

import flax.linen as nn

from sslshift import losses
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, forward, settings_of
from sslshift.models import MLPHead


def vicreg(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    invariance_weight: float,
    variance_weight: float,
    covariance_weight: float,
) -> Method:
    """Returns VICReg on an encoder; `projector` gives the widths of its head; the weights are those of the loss."""
    settings = settings_of(encoder)
    # The output has no batch norm: a batch norm would fix the variances that the loss should increase.
    networks = Siamese(encoder, MLPHead(projector, batch_norm=True, **settings))
    weights = {
        "invariance_weight": invariance_weight,
        "variance_weight": variance_weight,
        "covariance_weight": covariance_weight,
    }

    def loss(variables, target, views, context):
        del target, context
        (z1, z2), batch_stats = forward(networks, variables, views)
        return losses.vicreg(z1, z2, **weights, axis_name=settings["axis_name"]), Output(batch_stats)

    return Method(views, networks, loss, coupled="VICReg takes variances and covariances over the images of a batch")
