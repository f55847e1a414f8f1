"""SimCLR: two views of an image attract, all others of the batch repel.

References:
  Chen et al., `A Simple Framework for Contrastive Learning of Visual Representations
  <https://arxiv.org/abs/2002.05709>`_, 2020
"""

import flax.linen as nn

from sslshift.data.views import ViewSettings
from sslshift.losses import nt_xent
from sslshift.methods.base import Method, Output, Siamese
from sslshift.models.heads import MLPHead

# solo-learn's symmetric views for 32x32 images.
VIEW = ViewSettings(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur_probability=0.5)


def simclr(encoder: nn.Module, view: ViewSettings = VIEW, *, widths=(2048, 256), temperature: float = 0.2) -> Method:
    """SimCLR on an encoder; `widths` are those of its projection head."""

    def loss(networks, variables, target, views):
        del target
        (z1, z2), updated = networks.apply(variables, views, train=True, mutable=["batch_stats"])
        value = nt_xent(z1, z2, temperature=temperature)
        return value, Output(updated.get("batch_stats", {}), {})

    return Method((view, view), Siamese(encoder, MLPHead(widths)), loss)
