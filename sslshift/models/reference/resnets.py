"""ResNets under torchvision's names, which timm and most self-supervised code also use."""

from collections.abc import Iterator, Mapping
from typing import Any

from sslshift.models.reference.naming import Entry, Recognised, convolution, misfit, numbers, same
from sslshift.models.reference.parts import Dialect, EncoderPart
from sslshift.models.resnet import BasicBlock, Bottleneck, ResNet

CIFAR = "cifar"
_STEM = "a 7x7 stem of stride 2 and a 3x3 max-pool"
_SMALL_STEM = (
    "a 3x3 stem of stride 1 and padding 1 without max-pool, as asked, and images of 32 x 32 (?size= sets another size)"
)
_STRIDE = "strides on the 3x3 convolutions of bottlenecks (v1.5, as torchvision; v1 is not supported)"
_EPSILON = "an epsilon of 1e-05 in batch norms"
_STAGES = 4
_KNOWN = {
    (2, 2, 2, 2): {BasicBlock: "ResNet-18"},
    (3, 4, 6, 3): {BasicBlock: "ResNet-34", Bottleneck: "ResNet-50"},
    (3, 4, 23, 3): {Bottleneck: "ResNet-101"},
    (3, 8, 36, 3): {Bottleneck: "ResNet-152"},
}


def recognise(part: EncoderPart, facts: Mapping[str, Any]) -> Recognised:
    """Returns the ResNet that a part's names and shapes show.

    A bottleneck has its stride on its 3x3 convolution, as in torchvision (v1.5); the names in the variant of He et al. (v1) are
    the same.

    Args:
      part: encoder of a file, without heads.
      facts: stated facts; `stem` is `cifar` if the user stated it.

    Raises:
      ValueError: the ResNet has the 3x3 stem of small images, and its stride and pooling were not stated; or its stem has
        another shape.
    """
    found = part.tensors
    block = Bottleneck if any(name.endswith(".conv3.weight") for name in found) else BasicBlock
    depths = tuple(max(1, numbers(found, rf"layer{stage}\.(\d+)\.")) for stage in range(1, _STAGES + 1))
    stem = found["conv1.weight"].shape
    # A stem of another shape is reported by `converted`, together with all other tensors that do not fit.
    width = stem[0] if len(stem) == 4 and stem[0] else 64
    small = "stem" in facts
    if small and facts["stem"].value != CIFAR:
        raise ValueError(f"expected stem={CIFAR} or no stem, got {facts['stem'].value!r}.")
    title = _KNOWN.get(depths, {}).get(block, f"ResNet with {depths} blocks") + " under torchvision's names"
    if not small and stem[2:] == (3, 3):
        wrong = f"{part.written['conv1.weight']} ({' x '.join(map(str, stem))} in place of {width} x 3 x 7 x 7)"
        raise ValueError(
            f"{misfit(title, {'of another shape': [wrong]}, found)} Add ?stem={CIFAR} to its path if its 3x3 stem has "
            "stride 1, padding 1 and no max-pool; the tensors do not show that, and some code pads otherwise (solo-learn by 2)."
        )
    assumed = [_SMALL_STEM if small else _STEM, *([_STRIDE] if block is Bottleneck else []), _EPSILON]
    entries = list(_entries(depths, block, width, 3 if small else 7))
    return Recognised(title, ResNet(depths, block, width, small), 32 if small else 224, entries, assumed=assumed)


def _entries(depths: tuple[int, ...], block: type, width: int, side: int) -> Iterator[Entry]:
    yield _kernel("stem", "conv1", (width, 3, side, side))
    yield from _norm("stem_norm", "bn1", width)
    number = 0
    inputs = width
    for stage, depth in enumerate(depths):
        features = width * 2**stage
        kernels = [(features, 1), (features, 3), (4 * features, 1)] if block is Bottleneck else [(features, 3)] * 2
        for place in range(depth):
            ours = f"block{number}"
            theirs = f"layer{stage + 1}.{place}"
            start = inputs
            for i, (outputs, side) in enumerate(kernels):
                yield _kernel(f"{ours}/Conv_{i}", f"{theirs}.conv{i + 1}", (outputs, inputs, side, side))
                yield from _norm(f"{ours}/BatchNorm_{i}", f"{theirs}.bn{i + 1}", outputs)
                inputs = outputs
            if start != inputs or (stage > 0 and place == 0):
                # Flax numbers convolutions in the order of their calls, and the convolution of the shortcut comes last.
                yield _kernel(f"{ours}/Conv_{len(kernels)}", f"{theirs}.downsample.0", (inputs, start, 1, 1))
                yield from _norm(f"{ours}/BatchNorm_{len(kernels)}", f"{theirs}.downsample.1", inputs)
            number += 1


def _kernel(ours: str, theirs: str, shape: tuple[int, ...]) -> Entry:
    return Entry(f"params/{ours}/kernel", {f"{theirs}.weight": shape}, convolution)


def _norm(ours: str, theirs: str, width: int) -> Iterator[Entry]:
    names = {"params/{}/scale": "weight", "params/{}/bias": "bias"}
    names |= {"batch_stats/{}/mean": "running_mean", "batch_stats/{}/var": "running_var"}
    for path, name in names.items():
        yield Entry(path.format(ours), {f"{theirs}.{name}": (width,)}, same)


DIALECTS = (Dialect("ResNet under torchvision's names", ("conv1.weight", "layer1.0.conv1.weight"), recognise),)
