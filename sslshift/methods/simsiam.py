"""SimSiam: like BYOL, but the target is the trained network itself, and no gradient passes through the target.

References:
  Chen & He, `Exploring Simple Siamese Representation Learning <https://arxiv.org/abs/2011.10566>`_, 2021
"""

from collections.abc import Sequence

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.losses import negative_cosine
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, forward, settings_of
from sslshift.models import MLPHead


def simsiam(
    encoder: nn.Module, views: tuple[ViewSettings, ViewSettings], *, projector: Sequence[int], predictor: Sequence[int]
) -> Method:
    """Returns SimSiam on an encoder.

    Args:
      encoder: any encoder.
      views: settings of the views of an image.
      projector: widths of the projector.
      predictor: hidden widths of the predictor, whose output is as wide as the projector's; its learning rate stays constant.
    """
    # As in solo-learn, the projector's last norm has no scale and offset.
    networks = Siamese(
        encoder,
        MLPHead(projector, batch_norm=True, output_norm="plain", **settings_of(encoder)),
        MLPHead((*predictor, projector[-1]), batch_norm=True, **settings_of(encoder)),
    )

    def loss(variables, target, views, context):
        del target, context
        ((z1, z2), (p1, p2)), batch_stats = forward(networks, variables, views)
        # `negative_cosine` stops the gradient at the projections, which makes them targets.
        return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2, Output(batch_stats)

    return Method(views, networks, loss, constant_rate=("predictor",), coupled="")
