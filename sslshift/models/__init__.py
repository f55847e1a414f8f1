"""Encoders and heads as Flax linen modules.

Every encoder is called with normalised images `[batch, height, width, channels]` and `train=`, and returns features
`[batch, dim]`. `ENCODERS` names those that an experiment can ask for.
"""

from sslshift.models.heads import MLPHead
from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.resnet import ResNet

ENCODERS = {"patch_mlp": PatchMLP(), "resnet18": ResNet()}

__all__ = ["ENCODERS", "MLPHead", "PatchMLP", "ResNet"]
