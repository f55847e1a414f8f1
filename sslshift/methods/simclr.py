"""SimCLR: two views of an image attract each other, and all other views of the batch repel them.

References:
  Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
  <https://arxiv.org/abs/2002.05709>`_, 2020
"""

from collections.abc import Sequence

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.losses import nt_xent
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import Siamese, forward, settings_of
from sslshift.models import MLPHead


def simclr(
    encoder: nn.Module, views: tuple[ViewSettings, ViewSettings], *, projector: Sequence[int], temperature: float
) -> Method:
    """Returns SimCLR on an encoder; `projector` gives the widths of its head."""
    settings = settings_of(encoder)
    # solo-learn's projector for SimCLR has no batch norm.
    networks = Siamese(encoder, MLPHead(projector, **settings))

    def loss(variables, target, views, context):
        del target, context
        (z1, z2), batch_stats = forward(networks, variables, views)
        return nt_xent(z1, z2, temperature=temperature, axis_name=settings["axis_name"]), Output(batch_stats)

    return Method(views, networks, loss, coupled="SimCLR contrasts every image with the others of its batch")
