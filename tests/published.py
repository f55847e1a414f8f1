"""Names of original encoders, and the wrappers that trainers put around them."""

import numpy as np

RESNET = "torchvision/basic"


VIT = "timm/vit"


DINOV2 = "dinov2/plain"


def under(prefix, tensors, shift=0.0):
    """The tensors with longer names; those of a second encoder differ."""
    return {prefix + name: tensor + np.asarray(shift, tensor.dtype) for name, tensor in tensors.items()}


def head(*names):
    return {name: np.ones((3, 3), np.float32) for name in names}
