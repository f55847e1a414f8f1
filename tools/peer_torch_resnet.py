"""ResNets in plain PyTorch, with the layers, parameters and names of `sslshift.models.resnet`."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut, or a 3x3 one between two 1x1 ones (a bottleneck)."""

    def __init__(self, before: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        self.after = 4 * width if bottleneck else width
        sizes = [(width, 1, 1), (width, 3, stride), (self.after, 1, 1)] if bottleneck else [(width, 3, stride), (width, 3, 1)]
        self.layers = len(sizes)
        self.shortcut = stride > 1 or before != self.after
        channels = before
        for number, (features, side, step) in enumerate(sizes):
            self._add(number, channels, features, side, step)
            channels = features
        if self.shortcut:
            self._add(self.layers, before, self.after, 1, stride)

    def _add(self, number: int, before: int, after: int, side: int, stride: int) -> None:
        self.add_module(f"Conv_{number}", nn.Conv2d(before, after, side, stride, side // 2, bias=False))
        self.add_module(f"BatchNorm_{number}", nn.BatchNorm2d(after))

    def _layer(self, number: int, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, f"BatchNorm_{number}")(getattr(self, f"Conv_{number}")(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._layer(0, x)
        for number in range(1, self.layers):
            y = self._layer(number, functional.relu(y))
        return functional.relu(y + (self._layer(self.layers, x) if self.shortcut else x))


class TorchResNet(nn.Module):
    """ResNet of width 64; maps images `[batch, channels, side, side]` to features.

    Args:
      depths: number of blocks in each of the four stages.
      bottleneck: whether blocks are bottlenecks.
      small_images: whether the stem is that for small images.
      side: unused, since any size fits.
    """

    def __init__(self, depths: Sequence[int], *, bottleneck: bool, small_images: bool, side: int):
        super().__init__()
        del side
        kernel, stride = (3, 1) if small_images else (7, 2)
        self.stem = nn.Conv2d(3, 64, kernel, stride, kernel // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if small_images else nn.MaxPool2d(3, 2, 1)
        self.blocks = sum(depths)
        self.features = 64
        strides = [2 if stage and not place else 1 for stage, depth in enumerate(depths) for place in range(depth)]
        widths = [64 * 2**stage for stage, depth in enumerate(depths) for _ in range(depth)]
        for number, (width, step) in enumerate(zip(widths, strides, strict=True)):
            block = ResidualBlock(self.features, width, step, bottleneck)
            self.add_module(f"block{number}", block)
            self.features = block.after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.stem_norm(self.stem(x))))
        for number in range(self.blocks):
            x = getattr(self, f"block{number}")(x)
        return x.mean(dim=(2, 3))
