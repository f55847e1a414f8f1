"""Well-known checkpoints that exist as safetensors files, with their published digests."""

from typing import NamedTuple


class Checkpoint(NamedTuple):
    """A published file of weights.

    Args:
      url: address of one revision, so that the file at this address cannot change.
      size: size in bytes.
      sha256: digest of the content.
      licence: licence of the weights, as an SPDX name.
      about: architecture and training.
    """

    url: str
    size: int
    sha256: str
    licence: str
    about: str


def _on_hub(repository: str, revision: str) -> str:
    return f"https://huggingface.co/{repository}/resolve/{revision}/model.safetensors"


# A digest is listed only if several independent public sources give it for the file. DINOv2 with registers, DINO and MAE are
# missing for that reason; `load_reference` reads their files too.
CHECKPOINTS = {
    "dinov2-small": Checkpoint(
        _on_hub("facebook/dinov2-small", "ed25f3a31f01632728cabb09d1542f84ab7b0056"),
        88_249_960,
        "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
        "Apache-2.0",
        "DINOv2 ViT-S/14, 142 million images without labels (LVD-142M)",
    ),
    "dinov2-base": Checkpoint(
        _on_hub("facebook/dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415"),
        346_345_912,
        "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
        "Apache-2.0",
        "DINOv2 ViT-B/14, 142 million images without labels (LVD-142M)",
    ),
    "dinov2-large": Checkpoint(
        _on_hub("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"),
        1_217_522_888,
        "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
        "Apache-2.0",
        "DINOv2 ViT-L/14, 142 million images without labels (LVD-142M)",
    ),
    "resnet18-torchvision": Checkpoint(
        _on_hub("timm/resnet18.tv_in1k", "bbd144b3e5565108aad885f145491d11bc6ce807"),
        46_807_446,
        "694f673df6520a3158624e8a89af086f59923ee4cd7436fe5bc3bc71d295ad81",
        "BSD-3-Clause",
        "torchvision's ResNet-18 IMAGENET1K_V1, trained on ImageNet's labels",
    ),
    "resnet50-torchvision": Checkpoint(
        _on_hub("timm/resnet50.tv_in1k", "78f3ecfdb38e06d9b8397f662e7ab8fee96026fa"),
        102_469_840,
        "5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888",
        "BSD-3-Clause",
        "torchvision's ResNet-50 IMAGENET1K_V1, trained on ImageNet's labels",
    ),
    "resnet18-a1": Checkpoint(
        _on_hub("timm/resnet18.a1_in1k", "491b427b45c94c7fb0e78b5474cc919aff584bbf"),
        46_807_446,
        "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612",
        "Apache-2.0",
        "timm's ResNet-18 of the recipe A1, trained on ImageNet's labels",
    ),
    "resnet50-a1": Checkpoint(
        _on_hub("timm/resnet50.a1_in1k", "767268603ca0cb0bfe326fa87277f19c419566ef"),
        102_469_840,
        "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb",
        "Apache-2.0",
        "timm's ResNet-50 of the recipe A1, trained on ImageNet's labels",
    ),
}
