"""Vision transformers under the names of timm, of DINOv2's authors, of `transformers`, of torchvision and of mmpretrain."""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sslshift.models.reference.facts import Fact
from sslshift.models.reference.naming import Entry, Recognised, Tensors, convolution, dense, joined, numbers, same
from sslshift.models.reference.parts import Dialect, EncoderPart
from sslshift.models.vit import ViT

_SIZES = {192: "Ti", 384: "S", 768: "B", 1024: "L", 1280: "H", 1536: "g"}
# Number of attention heads by width, for DeiT, DINO, iBOT, MAE, MoCo v3, DINOv2 and timm's ViTs.
_PUBLISHED = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
# At these widths the ViTs of MoCo v3 and related methods have 12 heads; they all have fixed positions.
_TWELVE = (192, 384)
_MOCO = {"base_encoder", "momentum_encoder"}
_TOKEN = "the class token after the last norm as pooled features (?features=mean gives the patches' mean)"
# From timm's names of pooling to the names of features in this package.
_POOLS = {"token": "token", "avg": "mean"}


class _Names(NamedTuple):
    """Names that a library gives to the parts of a ViT; the names of a block's parts follow the name of the block."""

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


_TORCHVISION = _Names(
    whose="torchvision",
    token="class_token",
    positions="encoder.pos_embedding",
    registers="",
    embed="conv_proj",
    norm="encoder.ln",
    block="encoder.layers",
    norm1="ln_1",
    qkv=("self_attention.in_proj",),
    out="self_attention.out_proj",
    scale1="",
    norm2="ln_2",
    up="mlp.0",
    down="mlp.3",
    scale2="",
)
_MMPRETRAIN = _TIMM._replace(
    whose="mmpretrain",
    registers="",
    embed="patch_embed.projection",
    norm="ln1",
    block="layers",
    norm1="ln1",
    scale1="attn.gamma1.weight",
    norm2="ln2",
    up="ffn.layers.0.0",
    down="ffn.layers.1",
    scale2="ffn.gamma2.weight",
)


def _recognise(names: _Names, part: EncoderPart, facts: Mapping[str, Fact]) -> Recognised:
    """Returns the ViT that a part's names and shapes show.

    Raises:
      ValueError: the tensors that show its size have an impossible shape; the number of heads is not stated, and published ViTs
        of this width differ in it; or the file states another architecture.
    """
    found = part.tensors
    names = _dialect(names, part)
    kernel = found[f"{names.embed}.weight"].shape
    table = found[names.positions].shape
    if len(kernel) != 4 or kernel[2] != kernel[3] or len(table) != 3 or 0 in kernel + table:
        raise ValueError(f"its {names.embed}.weight of shape {kernel} and {names.positions} of shape {table} do not fit a ViT.")
    width = kernel[0]
    patch = kernel[3]
    depth = max(1, numbers(found, rf"{names.block}\.(\d+)\."))
    _require_ours(facts, width, depth)
    registers = _registers(names, found)
    scaled = _scaled(names, found)
    grid = math.isqrt(table[1])
    # The tokens before the patches have no positions, or only the class token has one, or all of them have one.
    leading = table[1] - grid**2 if table[1] - grid**2 in (0, 1, 1 + registers) else 1
    resize = _resize(names, registers)
    # 1e-12 is the default of transformers' ViT, 1e-6 that of the other libraries.
    epsilon = facts["epsilon"].value if "epsilon" in facts else 1e-12 if names is _TRANSFORMERS_VIT else 1e-6
    if not 0 < epsilon < 1:
        raise ValueError(f"expected an epsilon above 0 and below 1 for its layer norms, got {epsilon}.")
    module = ViT(
        width,
        depth,
        _heads(names, part, width, facts),
        patch,
        _POOLS[facts["pool"].value] if "pool" in facts else "token",
        "learned",
        registers=registers or None,
        # Any number will do, since the scales of the file replace the initial value.
        layer_scale=1.0 if scaled else None,
        grid=grid,
        resize=resize,
        epsilon=epsilon,
    )
    # DINOv2 was trained at 224 pixels, and only for a short time at the end at 518, the size of its table.
    side = 224 if scaled and (patch, grid) == (14, 37) else grid * patch
    biased = any(name.endswith(f".{names.qkv[0]}.bias") for name in found)
    entries = list(_entries(names, module, leading, biased))
    return Recognised(_title(names, module), module, side, entries, resize, _assumed(names, module, side, facts))


DIALECTS = tuple(
    Dialect(
        f"ViT under the names of {names.whose}",
        (names.token, names.positions, f"{names.embed}.weight"),
        functools.partial(_recognise, names),
    )
    for names in (_TIMM, _TRANSFORMERS_DINOV2, _TORCHVISION, _MMPRETRAIN)
)


def _dialect(names: _Names, part: EncoderPart) -> _Names:
    """Returns the library whose names the part has, among libraries with the same marks."""
    if names is _TRANSFORMERS_DINOV2:
        return _TRANSFORMERS_VIT if any(".layernorm_before." in name for name in part.tensors) else names
    if names is not _TIMM:
        return names
    # timm's conversion of DINOv2 drops the mask token.
    own = "mask_token" in part.heads or _ORIGINAL.registers in part.tensors
    return _ORIGINAL if own and _scaled(names, part.tensors) else names


def _registers(names: _Names, found: Tensors) -> int:
    known = names.registers and names.registers in found and found[names.registers].ndim > 1
    return found[names.registers].shape[-2] if known else 0


def _scaled(names: _Names, found: Tensors) -> bool:
    return bool(names.scale1) and any(name.endswith(names.scale1) for name in found)


def _require_ours(facts: Mapping[str, Fact], width: int, depth: int) -> None:
    """Raises ValueError if a fact contradicts the tensors, or states a setting that this package does not support."""
    for name, ours in (("width", width), ("depth", depth)):
        if name in facts and facts[name].value != ours:
            raise ValueError(f"{facts[name].where} states {name} = {facts[name].value}, but its tensors have {ours}.")
    activation = facts.get("activation")
    if activation and activation.value.lower() != "gelu":
        raise ValueError(f"{activation.where} states the activation {activation.value!r}; only exact GELU is supported.")
    pool = facts.get("pool")
    if pool and pool.value not in _POOLS:
        raise ValueError(f"{pool.where} states the pooling {pool.value!r}; only {' and '.join(_POOLS)} are supported.")
    sides = facts.get("image_size")
    if sides and len(set(sides.value)) > 1:
        raise ValueError(f"{sides.where} states images of {sides.value}; only square images are supported.")


def _heads(names: _Names, part: EncoderPart, width: int, facts: Mapping[str, Fact]) -> int:
    """Returns the stated number of attention heads, or the number in published ViTs if none is stated."""
    heads = facts["heads"].value if "heads" in facts else _published_heads(names, part, width)
    if heads < 1 or width % heads:
        raise ValueError(f"its width of {width} cannot be divided among {heads} attention heads.")
    return heads


def _published_heads(names: _Names, part: EncoderPart, width: int) -> int:
    """Returns the number of attention heads that all published ViTs of this width have.

    Raises:
      ValueError: no published ViT has this width, or published ViTs of this width differ and the file does not show the number.
    """
    unsure = f"its width of {width} does not determine the number of attention heads; give it with heads="
    if width not in _PUBLISHED:
        raise ValueError(f"{unsure}, as in ?heads=N after its path.")
    heads = _PUBLISHED[width]
    if width in _TWELVE and not (names in (_ORIGINAL, _TRANSFORMERS_DINOV2) and _scaled(names, part.tensors)):
        # In fixed positions the squares of a sine and its cosine add up to 1.
        table = np.asarray(part.tensors[names.positions], np.float32)[0, 1:]
        fixed = table.ndim == 2 and np.allclose((table**2).sum(-1), width / 2, rtol=0.01)
        named = _MOCO & set(part.prefix.split(".")) or any(re.fullmatch(r"head\.\d\.running_mean", name) for name in part.heads)
        if fixed or named:
            raise ValueError(
                f"{unsure}: ViTs of MoCo v3 have 12 (?heads=12), others of this width have {heads} (?heads={heads})."
            )
    return heads


def _assumed(names: _Names, module: ViT, side: int, facts: Mapping[str, Fact]) -> list[str]:
    """Returns the assumed facts, each with the option that states another value."""
    heads = f"{module.heads} attention heads, as published ViTs of this width have (?heads= sets another number)"
    return [
        *([] if "heads" in facts else [heads]),
        *([] if "epsilon" in facts else [f"an epsilon of {module.epsilon:g} in layer norms (?epsilon=)"]),
        f"exact GELU, patches that do not overlap, positions on a square of {module.grid} x {module.grid}",
        f"positions interpolated for other image sizes as {names.whose} does it",
        *(
            []
            if side == module.grid * module.patch
            else [f"images of {side} x {side}, the size of most of its training (?size=)"]
        ),
        *([] if "pool" in facts else [_TOKEN]),
    ]


def _resize(names: _Names, registers: int) -> str:
    if names is _TIMM or (registers and names is not _TRANSFORMERS_VIT):
        return "antialias"
    return "torch_offset" if names is _ORIGINAL else "torch"


def _title(names: _Names, module: ViT) -> str:
    size = _SIZES.get(module.width, f"{module.width}")
    family = "DINOv2 " if names is _TRANSFORMERS_DINOV2 or names is _ORIGINAL else ""
    registers = f" with {module.registers} registers" if module.registers else ""
    return f"{family}ViT-{size}/{module.patch}{registers} under the names of {names.whose}"


def _entries(names: _Names, module: ViT, leading: int, biased: bool) -> Iterator[Entry]:
    width = module.width
    patch = module.patch
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
    """Yields class token, positions and registers; positions of tokens before the patches are added to these tokens here."""
    width = module.width
    grid = module.grid
    registers = module.registers or 0
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
    # Some encoders were trained without this bias, which equals a bias of zeros.
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
