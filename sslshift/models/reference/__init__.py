"""Published encoders from local files: their features were trained on neither side of a comparison.

`load_reference` reads these encoders in float32:

- DINOv2 (with and without registers) under the names of its authors, in chunks or not, and of `transformers`;
- ViTs under the names of timm (DINO, MAE and MoCo v3 use these names too), `transformers`, torchvision and mmpretrain;
- ResNets under the names of torchvision, also inside an `nn.Sequential`.

`python -m tools.fetch_encoder` fetches the best-known files.

The encoder may be at any depth of a checkpoint of a whole training, also in the wrappers of DDP, FSDP and torch.compile. Heads,
projectors, predictors, prototypes, queues and decoders are left behind; the card lists them. A tensor of the encoder that has
no counterpart in this package is an error.

If a fact cannot be read from the tensors, the user can state it. Otherwise it is read from the file's metadata, or from the
`config.json` and `preprocessor_config.json` that a hub keeps beside a `model.safetensors`. If the fact is stated nowhere and
all published encoders agree on it, the published value is used, and the card lists it as assumed:

- attention heads, for the widths and depths of ViT-Ti to ViT-g. At widths of 192 and 384 the number is not assumed if
  positions, names and heads allow MoCo v3, which has another number;
- images are normalised by ImageNet's mean and standard deviation. Some encoders were trained otherwise, such as the ViTs of
  timm's `augreg` and of Google (mean 0.5, std 0.5);
- images have the size of the training: 224 pixels for DINOv2, which was trained mostly at 224 pixels and at the end at 518;
- GELU is exact, patches do not overlap, and norms add the usual epsilon to a variance;
- a bottleneck has its stride on its 3x3 convolution, as in torchvision;
- learned positions are resized for other image sizes as in the library whose names the file has, see `RESIZE` in
  `sslshift.models.patches`. DINO's files have timm's names, but DINO's authors interpolated otherwise; at the image size of
  the training there is no difference.

| file | what it holds |
|---|---|
| `loading` | `load_reference` |
| `files` | reading of tensors from untrusted files |
| `layouts` | one spelling for names that training code wraps, chunks or numbers |
| `parts` | the encoders in a file, and the choice of one |
| `facts` | facts that a file states about an encoder besides its tensors |
| `naming` | conversion of published names and shapes to arrays of this package |
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
