"""Encoders that others published, from local files: as features that neither side of a comparison was trained for.

`load_reference` reads DINOv2 (with and without registers) under the names of its own code, in chunks or not, and of
`transformers`; ViTs under the names of timm (DINO, MAE and MoCo v3 use them too), `transformers`, torchvision and mmpretrain;
and ResNets under those of torchvision, also inside an `nn.Sequential`; all in float32. `python -m tools.fetch_encoder` fetches
the best-known files.

The encoder may be at any depth of a checkpoint of a whole training, also in the wrappers of DDP, FSDP and torch.compile. Heads,
projectors, predictors, prototypes, queues and decoders are left behind; the card lists them. A tensor inside the encoder that
ours does not have is an error.

A fact that no tensor shows is taken from the user, or else from the file: its metadata, and the `config.json` and
`preprocessor_config.json` that a hub keeps beside a `model.safetensors`. If neither states it, and all published encoders
agree, the published value is used and the card lists it as assumed:

- attention heads, for the widths and depths of ViT-Ti to ViT-g. At widths of 192 and 384 they are not assumed where positions,
  names or heads may be MoCo v3's, whose number is another;
- images are normalised by ImageNet's mean and standard deviation. Some encoders were not trained so, such as timm's `augreg`
  ViTs and Google's (mean 0.5, std 0.5);
- images have the size of the training: 224 pixels for DINOv2, which was trained at 224 for the most part and at 518 at the end;
- GELU is exact, patches do not overlap, and norms add the usual epsilon to a variance;
- a bottleneck has its stride on its 3x3 convolution, as in torchvision;
- learned positions are brought to other image sizes by the code whose names the file has, see `RESIZE` in
  `sslshift.models.patches`. DINO's files have timm's names, but its own code interpolated otherwise; at the size of its
  training there is no difference.

| file | what it holds |
|---|---|
| `loading` | `load_reference` |
| `files` | tensors of files, which may hold anything |
| `layouts` | one spelling for names that trainers wrap, chunk or number |
| `parts` | the encoders in a file, and which one is meant |
| `facts` | what a file says about an encoder besides its tensors |
| `naming` | from their names and shapes to our arrays |
| `vits`, `resnets` | one architecture each, under the names of several libraries |
| `checkpoints` | well-known files and their digests |

To read the names of another library, add a `_Names` in `vits.py`, or a `Dialect` in a new file and its line in
`loading._parts`. To list a known file, add it to `CHECKPOINTS`.

References:
  Oquab et al., `DINOv2: Learning Robust Visual Features without Supervision <https://arxiv.org/abs/2304.07193>`_, 2023
  Darcet et al., `Vision Transformers Need Registers <https://arxiv.org/abs/2309.16588>`_, 2023
  Wightman, `PyTorch Image Models <https://github.com/huggingface/pytorch-image-models>`_, 2019
"""

from sslshift.models.reference.checkpoints import CHECKPOINTS, Checkpoint
from sslshift.models.reference.loading import IMAGENET_MEAN, IMAGENET_STD, load_reference

__all__ = ["CHECKPOINTS", "IMAGENET_MEAN", "IMAGENET_STD", "Checkpoint", "load_reference"]
