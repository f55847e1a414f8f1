"""Encoders and heads as Flax linen modules, and encoders in files.

Every encoder is called with normalised images `[batch, height, width, channels]` and `train=`, and returns features
`[batch, dim]`. `ENCODERS` names the encoders that an experiment can use; `encoder.clone(dtype=jax.numpy.bfloat16)` computes in
bfloat16. An encoder with its weights is a `PretrainedEncoder`; `save_encoder` and `load_encoder` keep it in a file.
`load_encoder` and `open_encoder` also open published encoders: `open_encoder("checkpoint.safetensors?part=teacher")`.

| file | what it holds |
|---|---|
| `resnet`, `vit`, `patch_mlp` | one architecture each, or two; `patches` and `convolution` contain their parts |
| `heads` | heads that methods put on an encoder during pretraining |
| `pretrained` | an encoder with its weights: features by name, the output of every block |
| `description`, `weights` | architectures as JSON, and encoders in files |
| `opening`, `reference/` | published encoders |
| `initial` | encoders that pretraining continues from, for images of another size |
| `bundled/` | the encoder that ships with the package |

To add an encoder, write its module in a file here, and give it a name in `ENCODERS` below and a kind in
`description._KINDS`. A module of another package needs no line here: pass it to a method, and its class to
`load_encoder(path, modules=[MyEncoder])`.

The tests: `test_models` (architectures), `test_pretrained` (features, files), `test_from_python` (modules of other packages),
`test_initial`, `test_bundled` (the encoder that ships with the package), `test_reference`, `test_damaged_weights` and
`test_fetch_encoder` (published encoders), `test_trainer_files` and `test_encoder_facts` (checkpoints of other training code).
`conftest` has the fixtures that several of these files share.
"""

from typing import TYPE_CHECKING

from sslshift.arrays import unit
from sslshift.extras import lazy_names
from sslshift.models.heads import MLPHead, PrototypeHead, Prototypes
from sslshift.models.patch_mlp import PatchMLP
from sslshift.models.patches import patchify, sincos_positions
from sslshift.models.pretrained import FEATURES, PretrainedEncoder, layer_activations
from sslshift.models.resnet import BasicBlock, Bottleneck, PatchResNet, ResNet
from sslshift.models.vit import MAEDecoder, ViT

if TYPE_CHECKING:
    from sslshift.models.opening import load_encoder, open_encoder
    from sslshift.models.weights import ENCODER, save_encoder

_RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2)),
    "resnet34": ResNet((3, 4, 6, 3)),
    "resnet50": ResNet((3, 4, 6, 3), Bottleneck),
}
_VITS = {"ti": (192, 12, 3), "s": (384, 12, 6), "b": (768, 12, 12)}

# These are ours, small enough for a CPU, or to ship with the package; all others are published architectures.
_OURS = {
    "patch_mlp": PatchMLP(),
    "vit_nano4": ViT(96, 4, 3, 4),
    "resnet_nano4": PatchResNet(),
    "resnet_micro4": PatchResNet((64, 128, 256), (2, 2, 2)),
}
ENCODERS = (
    _OURS
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
    "PatchResNet",
    "PretrainedEncoder",
    "PrototypeHead",
    "Prototypes",
    "ResNet",
    "ViT",
    "layer_activations",
    "load_encoder",
    "open_encoder",
    "patchify",
    "save_encoder",
    "sincos_positions",
    "unit",
]

# Only encoder files need safetensors: a program that only builds encoders works without it.
__getattr__ = lazy_names(
    __name__, {"ENCODER": "weights", "load_encoder": "opening", "open_encoder": "opening", "save_encoder": "weights"}
)
