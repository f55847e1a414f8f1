"""Encoders and heads as Flax linen modules.

Every encoder is called with normalised images `[batch, height, width, channels]` and `train=`, and returns features
`[batch, dim]`. `ENCODERS` names those that an experiment can ask for; `encoder.clone(dtype=jax.numpy.bfloat16)` computes in
bfloat16. An encoder with its weights is a `PretrainedEncoder`; `save_encoder` and `load_encoder` keep it in a file.
`load_encoder` and `open_encoder` also open what others published: `open_encoder("checkpoint.safetensors?part=teacher")`.
"""

from sslshift.arrays import unit
from sslshift.models.heads import MLPHead, PrototypeHead, Prototypes
from sslshift.models.opening import load_encoder, open_encoder
from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.patches import patchify, unpatchify
from sslshift.models.pretrained import FEATURES, PretrainedEncoder
from sslshift.models.resnet import BasicBlock, Bottleneck, ResNet
from sslshift.models.vit import MAEDecoder, ViT, sincos_positions
from sslshift.models.weights import ENCODER, save_encoder

_RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2)),
    "resnet34": ResNet((3, 4, 6, 3)),
    "resnet50": ResNet((3, 4, 6, 3), Bottleneck),
}
_VITS = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12)}

# `patch_mlp` and `vit_nano4` are ours, small enough for a CPU; all others are published architectures.
ENCODERS = (
    {"patch_mlp": PatchMLP(), "vit_nano4": ViT(96, 4, 3, 4)}
    | _RESNETS
    | {f"{name}_cifar": encoder.clone(small_images=True) for name, encoder in _RESNETS.items()}
    | {f"vit_{size}{patch}": ViT(*shape, patch) for size, shape in _VITS.items() for patch in (4, 8, 16)}
)

__all__ = [
    "ENCODER",
    "ENCODERS",
    "FEATURES",
    "BasicBlock",
    "Bottleneck",
    "MAEDecoder",
    "MLPHead",
    "PatchMLP",
    "PretrainedEncoder",
    "PrototypeHead",
    "Prototypes",
    "ResNet",
    "ViT",
    "load_encoder",
    "open_encoder",
    "patchify",
    "save_encoder",
    "sincos_positions",
    "unit",
    "unpatchify",
]
