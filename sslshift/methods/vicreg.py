"""VICReg: views agree, every dimension varies, no two dimensions vary together.

References:
  Bardes et al., `VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning
  <https://arxiv.org/abs/2105.04906>`_, 2022
"""

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.losses import vicreg as vicreg_loss
from sslshift.methods.base import Method, Output, Siamese
from sslshift.models.heads import MLPHead

# solo-learn's views for 32x32 images.
VIEW = ViewSettings(min_crop_scale=0.2, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, solarise_probability=0.1)


def vicreg(
    encoder: nn.Module,
    view: ViewSettings = VIEW,
    *,
    widths=(2048, 2048, 2048),
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Method:
    """VICReg on an encoder; `widths` are those of its expander."""

    def loss(networks, variables, target, views):
        del target
        (z1, z2), updated = networks.apply(variables, views, train=True, mutable=["batch_stats"])
        value = vicreg_loss(
            z1,
            z2,
            invariance_weight=invariance_weight,
            variance_weight=variance_weight,
            covariance_weight=covariance_weight,
        )
        return value, Output(updated.get("batch_stats", {}), {})

    return Method((view, view), Siamese(encoder, MLPHead(widths, batch_norm=True)), loss)
