"""Small random models of the original architectures, run by their own code; `python tests/reference_originals.py` stores pairs.

Weights and images come from seeds, so `data/reference_pairs.npz` has only names, shapes and outputs, and the tests of name maps
run where torch is not installed.
"""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

PAIRS = Path(__file__).parent / "data" / "reference_pairs.npz"
MEAN = np.float32([0.485, 0.456, 0.406])
STD = np.float32([0.229, 0.224, 0.225])
HEADS = 3
PATCH = 4
SIDE = 28
# The training's grid, a smaller one, and a larger one.
VIT_SIZES = ((28, 28), (20, 12), (36, 32))
RESNET_SIZES = ((64, 64), (40, 72))


class Original(NamedTuple):
    """Shapes of its tensors, and its own forward pass.

    Args:
      shapes: of the tensors that its checkpoints hold.
      forward: from tensors and normalised images `[n, height, width, 3]` to the pooled features `[n, dim]` and the map
        `[n, rows, columns, dim]` or `[n, places, dim]`, both float32.
      sizes: of the images to compare on.
      heads: attention heads.
    """

    shapes: dict[str, tuple[int, ...]]
    forward: Callable[[dict[str, np.ndarray], np.ndarray], tuple[np.ndarray, np.ndarray]]
    sizes: tuple[tuple[int, int], ...]
    heads: int | None = None


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights that keep activations near 1 and every tensor in play; each depends on its name and shape alone."""
    return {name: _random_tensor(name, tuple(shape)) for name, shape in sorted(shapes.items())}


def _random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    # NumPy keeps RandomState's stream; that of its generators may change.
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.array(7)
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        centre = 1.0 if name.endswith(("weight", "gamma", "lambda1")) else 0.0
        return (centre + 0.3 * random.standard_normal(shape)).astype(np.float32)
    if "token" in name or "pos" in name:
        return random.standard_normal(shape).astype(np.float32)
    return (random.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def random_images(size: tuple[int, int]) -> np.ndarray:
    return np.random.RandomState(size[0] * 1000 + size[1]).randint(0, 256, (2, *size, 3)).astype(np.uint8)


def projected(places: np.ndarray) -> np.ndarray:
    """One number for each place, `[n, places]`, that moves with each of its features: small enough to be stored."""
    channels = places.shape[-1]
    direction = np.random.RandomState(channels).standard_normal(channels) / math.sqrt(channels)
    return (places.reshape(len(places), -1, channels) @ direction).astype(np.float32)


def normalised(images: np.ndarray) -> np.ndarray:
    return (images.astype(np.float32) / np.float32(255) - MEAN) / STD


def transformers_model(kind: str) -> Original:
    """A ViT of `transformers`; the shapes are those of what it saves, whose names differ from those in memory."""
    import tempfile

    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    config, model = {
        "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
        "dinov2_registers": (transformers.Dinov2WithRegistersConfig, transformers.Dinov2WithRegistersModel),
        "vit": (transformers.ViTConfig, transformers.ViTModel),
    }[kind]
    settings = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": 96}
    made = model(config(**settings, patch_size=PATCH, image_size=SIDE))
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        shapes = {name: tensor.shape for name, tensor in load_file(Path(folder) / "model.safetensors").items()}

    def forward(tensors, images, hidden=False):
        with tempfile.TemporaryDirectory() as folder:
            made.config.save_pretrained(folder)
            save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
            loaded = model.from_pretrained(folder).eval()
        options = {"interpolate_pos_encoding": True} if kind == "vit" else {}
        with torch.no_grad():
            given = loaded(torch.from_numpy(images).permute(0, 3, 1, 2), output_hidden_states=hidden, **options)
        if hidden:
            return [layer.numpy() for layer in given.hidden_states]
        tokens = given.last_hidden_state.numpy()
        return tokens[:, 0], tokens[:, -_patches(images) :]

    return Original(shapes, forward, VIT_SIZES, HEADS)


def timm_model(**settings: Any) -> Original:
    """timm's VisionTransformer. Another size than the training's is what `dynamic_img_size` makes of it."""
    import timm
    import torch

    def make(**more):
        size = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": 24, "depth": 2, "num_heads": HEADS, "num_classes": 5}
        return timm.models.vision_transformer.VisionTransformer(**size, **settings, **more).eval()

    def forward(tensors, images):
        model = make(dynamic_img_size=True)
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        with torch.no_grad():
            tokens = model.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
        return tokens[:, 0], tokens[:, -_patches(images) :]

    return Original({name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}, forward, VIT_SIZES, HEADS)


def torchvision_model(block: str, depths: tuple[int, ...]) -> Original:
    import torch
    import torchvision

    def make():
        return torchvision.models.ResNet(getattr(torchvision.models.resnet, block), list(depths)).eval()

    def forward(tensors, images):
        model = make()
        model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in tensors.items()})
        with torch.no_grad():
            places = torch.nn.Sequential(*list(model.children())[:-2])(torch.from_numpy(images).permute(0, 3, 1, 2))
            pooled = model.avgpool(places).flatten(1)
        return pooled.numpy(), places.permute(0, 2, 3, 1).numpy()

    return Original({name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}, forward, RESNET_SIZES)


def dinov2_model(registers: int) -> Original:
    """DINOv2 as its own repository defines it, written anew in plain torch since it is no package that installs."""
    import torch

    width = 24
    depth = 2
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 50, width), "mask_token": (1, width)}
    shapes |= {"register_tokens": (1, registers, width)} if registers else {}
    shapes |= {"patch_embed.proj.weight": (width, 3, PATCH, PATCH), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        wide = {"attn.qkv": (72, 24), "attn.proj": (24, 24), "mlp.fc1": (96, 24), "mlp.fc2": (24, 96)}
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in wide.items()}
        shapes |= {f"blocks.{i}.{name}.bias": shape[:1] for name, shape in wide.items()}
        shapes |= {f"blocks.{i}.{norm}.{part}": (width,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        shapes |= {f"blocks.{i}.ls{number}.gamma": (width,) for number in (1, 2)}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}

    def forward(tensors, images):
        state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
        tokens = _dinov2_forward(state, torch.from_numpy(images).permute(0, 3, 1, 2), depth).numpy()
        return tokens[:, 0], tokens[:, 1 + registers :]

    return Original(shapes, forward, VIT_SIZES, HEADS)


def _dinov2_forward(state: dict[str, Any], images: Any, depth: int) -> Any:
    """All tokens after the last norm."""
    import torch
    from torch.nn import functional

    def layer(name, x):
        return functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name, x):
        return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    registers = state.get("register_tokens")
    patches = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    places = _dinov2_places(state["pos_embed"], *patches.shape[2:], antialias=registers is not None)
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], 1) + places
    if registers is not None:
        x = torch.cat([x[:, :1], registers.expand(len(images), -1, -1), x[:, 1:]], 1)
    for i in range(depth):
        block = f"blocks.{i}"
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in layer(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, 2)
        )
        attention = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).softmax(-1)
        attended = layer(f"{block}.attn.proj", (attention @ value).transpose(1, 2).flatten(2))
        x = x + state[f"{block}.ls1.gamma"] * attended
        hidden = functional.gelu(layer(f"{block}.mlp.fc1", norm(f"{block}.norm2", x)))
        x = x + state[f"{block}.ls2.gamma"] * layer(f"{block}.mlp.fc2", hidden)
    return norm("norm", x)


def _dinov2_places(table: Any, rows: int, columns: int, *, antialias: bool) -> Any:
    """Published without registers: scaled to a tenth of a patch too much. With them: to the size, and antialiased."""
    import torch
    from torch.nn import functional

    grid = math.isqrt(table.shape[1] - 1)
    if (rows, columns) == (grid, grid):
        return table
    to = {"size": (rows, columns)} if antialias else {"scale_factor": ((rows + 0.1) / grid, (columns + 0.1) / grid)}
    square = table[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(square, mode="bicubic", antialias=antialias, **to)
    return torch.cat([table[:, :1], resized.flatten(2).transpose(1, 2)], 1)


def _patches(images: np.ndarray) -> int:
    return images.shape[1] // PATCH * (images.shape[2] // PATCH)


ORIGINALS: dict[str, Callable[[], Original]] = {
    "transformers/dinov2": lambda: transformers_model("dinov2"),
    "transformers/dinov2_registers": lambda: transformers_model("dinov2_registers"),
    "transformers/vit": lambda: transformers_model("vit"),
    "dinov2/plain": lambda: dinov2_model(0),
    "dinov2/registers": lambda: dinov2_model(4),
    "timm/vit": lambda: timm_model(),
    "timm/vit_without_qkv_bias": lambda: timm_model(qkv_bias=False),
    "timm/dinov2": lambda: timm_model(init_values=1e-5),
    "timm/dinov2_registers": lambda: timm_model(init_values=1e-5, reg_tokens=4, no_embed_class=True),
    "timm/registers_with_positions": lambda: timm_model(reg_tokens=4),
    "torchvision/basic": lambda: torchvision_model("BasicBlock", (1, 2, 1, 1)),
    "torchvision/bottleneck": lambda: torchvision_model("Bottleneck", (2, 1, 1, 1)),
}


def write_pairs() -> None:
    stored = {}
    for name, build in ORIGINALS.items():
        original = build()
        stored[f"{name}/about"] = np.array(json.dumps({"shapes": original.shapes, "heads": original.heads}))
        tensors = random_tensors(original.shapes)
        for size in original.sizes:
            pooled, places = original.forward(tensors, normalised(random_images(size)))
            stored[f"{name}/pooled/{size[0]}x{size[1]}"] = pooled.astype(np.float32)
            stored[f"{name}/places/{size[0]}x{size[1]}"] = projected(places)
    PAIRS.parent.mkdir(exist_ok=True)
    np.savez_compressed(PAIRS, **stored)
    print(f"{PAIRS}: {PAIRS.stat().st_size:,} bytes, {len(ORIGINALS)} models")


if __name__ == "__main__":
    write_pairs()
