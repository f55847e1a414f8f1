"""Vision transformers in plain PyTorch, with the layers, parameters and names of `sslshift.models.vit`."""

import torch
from torch import nn
from torch.nn import functional

from sslshift.models import sincos_positions

EPSILON = 1e-6


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, then a dense layer of four times the width; `[batch, tokens, width]`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.out(attended.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class TorchViT(nn.Module):
    """ViT with fixed positions; maps images `[batch, channels, side, side]` to the class token."""

    def __init__(self, *, width: int, depth: int, heads: int, patch: int, side: int):
        super().__init__()
        self.features = width
        self.blocks = depth
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        positions = sincos_positions(side // patch, side // patch, width).reshape(1, -1, width)
        self.register_buffer("positions", torch.from_numpy(positions))
        for number in range(depth):
            self.add_module(f"block{number}", TransformerBlock(width, heads))
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.positions
        x = torch.cat([self.class_token.expand(len(x), 1, -1), patches], dim=1)
        for number in range(self.blocks):
            x = getattr(self, f"block{number}")(x)
        return self.norm(x)[:, 0]
