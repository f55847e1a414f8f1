"""Vision transformers under the names of timm, of DINOv2's own code, and of `transformers`."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from sslshift.models.reference.naming import (
    Entry,
    Recognised,
    Tensors,
    convolution,
    dense,
    joined,
    numbers,
    require_marks,
    same,
    without_prefix,
)
from sslshift.models.vit import ViT

IGNORED = r"(head|fc|classifier|pooler|decoder)\..*|decoder_.*|mask_token|embeddings\.mask_token"
_PREFIXES = ("", "module.", "backbone.", "module.backbone.", "model.", "vit.", "dinov2.", "dinov2_with_registers.")
_HEAD = 64
_SIZES = {192: "Ti", 384: "S", 768: "B", 1024: "L"}


class _Names(NamedTuple):
    """What a library calls the parts of a ViT; those of a block follow the block's own name."""

    whose: str
    token: str
    positions: str
    registers: str
    embed: str
    norm: str
    block: str
    norm1: str
    qkv: tuple[str, ...]
    out: str
    scale1: str
    norm2: str
    up: str
    down: str
    scale2: str


_TIMM = _Names(
    whose="timm",
    token="cls_token",
    positions="pos_embed",
    registers="reg_token",
    embed="patch_embed.proj",
    norm="norm",
    block="blocks",
    norm1="norm1",
    qkv=("attn.qkv",),
    out="attn.proj",
    scale1="ls1.gamma",
    norm2="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    scale2="ls2.gamma",
)
_ORIGINAL = _TIMM._replace(whose="DINOv2's own code", registers="register_tokens")
_TRANSFORMERS_DINOV2 = _Names(
    whose="transformers",
    token="embeddings.cls_token",
    positions="embeddings.position_embeddings",
    registers="embeddings.register_tokens",
    embed="embeddings.patch_embeddings.projection",
    norm="layernorm",
    block="encoder.layer",
    norm1="norm1",
    qkv=tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    out="attention.output.dense",
    scale1="layer_scale1.lambda1",
    norm2="norm2",
    up="mlp.fc1",
    down="mlp.fc2",
    scale2="layer_scale2.lambda1",
)
_TRANSFORMERS_VIT = _TRANSFORMERS_DINOV2._replace(
    norm1="layernorm_before", norm2="layernorm_after", up="intermediate.dense", down="output.dense"
)


def recognise(tensors: Tensors, heads: int | None) -> tuple[Recognised, Tensors] | None:
    """A ViT and its tensors without a common prefix; None: the names are not those of one.

    Args:
      tensors: of a file.
      heads: attention heads; None: one for every 64 features, as in all published sizes, since no tensor tells.

    Raises:
      ValueError: the tensors that tell its shape are of no possible shape.
    """
    for names in (_TIMM, _TRANSFORMERS_DINOV2):
        marks = (names.token, names.positions, f"{names.embed}.weight")
        found = without_prefix(tensors, _PREFIXES, marks)
        if found is not None:
            require_marks(f"ViT under the names of {names.whose}", found, marks)
            return _recognised(_dialect(names, found), found, heads), found
    return None


def _dialect(names: _Names, found: Tensors) -> _Names:
    """Whose names they are of those that begin alike."""
    if names is _TRANSFORMERS_DINOV2:
        return _TRANSFORMERS_VIT if any(".layernorm_before." in name for name in found) else names
    # timm's conversion of DINOv2 drops the mask token.
    scaled = any(name.endswith(names.scale1) for name in found)
    return _ORIGINAL if scaled and ("mask_token" in found or _ORIGINAL.registers in found) else names


def _recognised(names: _Names, found: Tensors, heads: int | None) -> Recognised:
    kernel, table = found[f"{names.embed}.weight"].shape, found[names.positions].shape
    if len(kernel) != 4 or kernel[2] != kernel[3] or len(table) != 3 or 0 in kernel + table:
        raise ValueError(f"its {names.embed}.weight of shape {kernel} and {names.positions} of shape {table} are no ViT's.")
    width, patch = kernel[0], kernel[3]
    registers = found[names.registers].shape[-2] if names.registers in found and found[names.registers].ndim > 1 else 0
    scaled = any(name.endswith(names.scale1) for name in found)
    grid = math.isqrt(table[1])
    # Of the tokens before the patches none has a position, the class token alone, or all of them.
    leading = table[1] - grid**2 if table[1] - grid**2 in (0, 1, 1 + registers) else 1
    resize = _resize(names, registers)
    module = ViT(
        width,
        max(1, numbers(found, rf"{names.block}\.(\d+)\.")),
        _heads(width, heads),
        patch,
        positions="learned",
        registers=registers or None,
        layer_scale=1.0 if scaled else None,
        grid=grid,
        resize=resize,
        epsilon=1e-12 if names is _TRANSFORMERS_VIT else 1e-6,
    )
    # DINOv2 was trained at 224 pixels and only at last, shortly, at the 518 of its table.
    side = 224 if scaled and (patch, grid) == (14, 37) else grid * patch
    biased = any(name.endswith(f".{names.qkv[0]}.bias") for name in found)
    return Recognised(_title(names, module), module, side, list(_entries(names, module, leading, biased)), resize)


def _resize(names: _Names, registers: int) -> str:
    if names is _TIMM or (registers and names is not _TRANSFORMERS_VIT):
        return "antialias"
    return "torch_offset" if names is _ORIGINAL else "torch"


def _heads(width: int, heads: int | None) -> int:
    if heads is None and width % _HEAD:
        raise ValueError(f"its width of {width} does not tell the number of attention heads; say it with heads=.")
    heads = width // _HEAD if heads is None else heads
    if heads < 1 or width % heads:
        raise ValueError(f"its width of {width} cannot be divided among {heads} attention heads.")
    return heads


def _title(names: _Names, module: ViT) -> str:
    size = _SIZES.get(module.width, f"{module.width}")
    family = "DINOv2 " if names is _TRANSFORMERS_DINOV2 or names is _ORIGINAL else ""
    registers = f" with {module.registers} registers" if module.registers else ""
    return f"{family}ViT-{size}/{module.patch}{registers} under the names of {names.whose}"


def _entries(names: _Names, module: ViT, leading: int, biased: bool) -> Iterator[Entry]:
    width, patch = module.width, module.patch
    yield from _tokens(names, module, leading)
    embed = {f"{names.embed}.weight": (width, 3, patch, patch)}
    yield Entry("params/embed/kernel", embed, lambda kernel: convolution(kernel).reshape(-1, width))
    yield Entry("params/embed/bias", {f"{names.embed}.bias": (width,)}, same)
    for i in range(module.depth):
        yield from _block(names, f"params/block{i}", f"{names.block}.{i}", width, biased)
        if module.layer_scale is not None:
            yield Entry(f"params/block{i}/scale1", {f"{names.block}.{i}.{names.scale1}": (width,)}, same)
            yield Entry(f"params/block{i}/scale2", {f"{names.block}.{i}.{names.scale2}": (width,)}, same)
    yield from _norm("params/norm", names.norm, width)


def _tokens(names: _Names, module: ViT, leading: int) -> Iterator[Entry]:
    """Positions of tokens that do not move are added to the tokens here, once, in place of in every call."""
    width, grid, registers = module.width, module.grid, module.registers or 0
    table = {names.positions: (1, leading + grid**2, width)}

    def class_token(token, positions):
        return token[0, 0] + positions[0, 0] if leading else token[0, 0]

    def further(tokens, positions):
        return tokens[0] + positions[0, 1:leading] if leading > 1 else tokens[0]

    yield Entry("params/class_token", {names.token: (1, 1, width)} | table, class_token)
    yield Entry("params/positions", table, lambda positions: positions[0, leading:].reshape(grid, grid, width))
    if registers:
        yield Entry("params/registers", {names.registers: (1, registers, width)} | table, further)


def _block(names: _Names, ours: str, theirs: str, width: int, biased: bool) -> Iterator[Entry]:
    yield from _norm(f"{ours}/norm1", f"{theirs}.{names.norm1}", width)
    yield from _qkv(f"{ours}/qkv", [f"{theirs}.{part}" for part in names.qkv], width, biased)
    yield from _dense(f"{ours}/out", f"{theirs}.{names.out}", width, width)
    yield from _norm(f"{ours}/norm2", f"{theirs}.{names.norm2}", width)
    yield from _dense(f"{ours}/up", f"{theirs}.{names.up}", width, 4 * width)
    yield from _dense(f"{ours}/down", f"{theirs}.{names.down}", 4 * width, width)


def _qkv(ours: str, theirs: list[str], width: int, biased: bool) -> Iterator[Entry]:
    rows = 3 * width // len(theirs)
    yield Entry(f"{ours}/kernel", {f"{part}.weight": (rows, width) for part in theirs}, dense)
    # Some were trained without this bias, which is the same as with one of zeros.
    if biased:
        yield Entry(f"{ours}/bias", {f"{part}.bias": (rows,) for part in theirs}, joined)
    else:
        yield Entry(f"{ours}/bias", {}, lambda: np.zeros(3 * width, np.float32))


def _dense(ours: str, theirs: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield Entry(f"{ours}/kernel", {f"{theirs}.weight": (outputs, inputs)}, dense)
    yield Entry(f"{ours}/bias", {f"{theirs}.bias": (outputs,)}, same)


def _norm(ours: str, theirs: str, width: int) -> Iterator[Entry]:
    yield Entry(f"{ours}/scale", {f"{theirs}.weight": (width,)}, same)
    yield Entry(f"{ours}/bias", {f"{theirs}.bias": (width,)}, same)
