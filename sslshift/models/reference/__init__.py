"""Well-known encoders from local files, as features that neither side of a comparison was trained for."""

from sslshift.models.reference.checkpoints import CHECKPOINTS, Checkpoint
from sslshift.models.reference.loading import IMAGENET_MEAN, IMAGENET_STD, load_reference

__all__ = ["CHECKPOINTS", "IMAGENET_MEAN", "IMAGENET_STD", "Checkpoint", "load_reference"]
