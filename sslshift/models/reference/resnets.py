"""ResNets under torchvision's names, which timm and most self-supervised code share."""

from collections.abc import Iterator

from sslshift.models.reference.naming import (
    Entry,
    Recognised,
    Tensors,
    convolution,
    numbers,
    require_marks,
    same,
    without_prefix,
)
from sslshift.models.resnet import BasicBlock, Bottleneck, ResNet

IGNORED = r"(.*\.)?num_batches_tracked|(fc|head|classifier)\..*"
_PREFIXES = ("", "module.", "backbone.", "module.backbone.", "model.")
_MARKS = ("conv1.weight", "layer1.0.conv1.weight")
_STAGES = 4
_KNOWN = {
    (2, 2, 2, 2): {BasicBlock: "ResNet-18"},
    (3, 4, 6, 3): {BasicBlock: "ResNet-34", Bottleneck: "ResNet-50"},
    (3, 4, 23, 3): {Bottleneck: "ResNet-101"},
    (3, 8, 36, 3): {Bottleneck: "ResNet-152"},
}


def recognise(tensors: Tensors) -> tuple[Recognised, Tensors] | None:
    """A ResNet and its tensors without a common prefix; None: the names are not those of one.

    The stride of a bottleneck lies on its 3x3 convolution, as in torchvision (v1.5); that of He et al. (v1) has the same names.
    """
    found = without_prefix(tensors, _PREFIXES, _MARKS)
    if found is None:
        return None
    require_marks("ResNet under torchvision's names", found, _MARKS)
    block = Bottleneck if any(name.endswith(".conv3.weight") for name in found) else BasicBlock
    depths = tuple(max(1, numbers(found, rf"layer{stage}\.(\d+)\.")) for stage in range(1, _STAGES + 1))
    width = found["conv1.weight"].shape[0] if found["conv1.weight"].ndim == 4 else 64
    title = _KNOWN.get(depths, {}).get(block, f"ResNet with {depths} blocks") + " under torchvision's names"
    return Recognised(title, ResNet(depths, block, width), 224, list(_entries(depths, block, width))), found


def _entries(depths: tuple[int, ...], block: type, width: int) -> Iterator[Entry]:
    yield _kernel("stem", "conv1", (width, 3, 7, 7))
    yield from _norm("stem_norm", "bn1", width)
    number, inputs = 0, width
    for stage, depth in enumerate(depths):
        features = width * 2**stage
        kernels = [(features, 1), (features, 3), (4 * features, 1)] if block is Bottleneck else [(features, 3)] * 2
        for place in range(depth):
            ours, theirs = f"block{number}", f"layer{stage + 1}.{place}"
            start = inputs
            for i, (outputs, side) in enumerate(kernels):
                yield _kernel(f"{ours}/Conv_{i}", f"{theirs}.conv{i + 1}", (outputs, inputs, side, side))
                yield from _norm(f"{ours}/BatchNorm_{i}", f"{theirs}.bn{i + 1}", outputs)
                inputs = outputs
            if start != inputs or (stage > 0 and place == 0):
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
