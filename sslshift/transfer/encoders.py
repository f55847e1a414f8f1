"""Encoders by name (a file, a run, raw pixels, or an untrained network), with a sentence on the limits of their features."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sslshift.data.decode import Canvas
from sslshift.models import ENCODERS, PretrainedEncoder, ResNet
from sslshift.models.opening import how_it_was_read, is_bundled, is_published, open_encoder
from sslshift.transfer.features import Encoder, NetworkEncoder, pixel_encoder

# Images in a batch. Smaller sets are padded to it, and larger batches are no faster on a CPU.
_BATCH = 100
PIXELS = "pixels"
UNTRAINED = "untrained"
# The untrained network encodes about 500 images of 64 pixels in a second of CPU time. Of four small networks with random
# weights, only this one measured noise as farther from the bundled clothes than digits, discs and inverted clothes; a ViT and
# ResNets with another stem or with zero-initialised branches did not.
SMALL = ResNet((1, 1, 1, 1), width=32)
_BETTER = (
    "To compare what the pictures show, use a trained encoder: python -m tools.fetch_encoder dinov2-small, then "
    "--encoder=dinov2-small.safetensors."
)
_GENERATED = (
    "The bundled encoder was trained on generated images alone, and briefly: it distinguishes sources by colour and texture, "
    f"not by what the pictures show. {_BETTER}"
)


@dataclasses.dataclass(frozen=True)
class NamedEncoder:
    """An encoder by name.

    Attributes:
      title: the name that tables use.
      remark: sentence on the limits of the features; empty if the encoder was trained.
      trained: whether the features respond to more than colour and texture.
      canvas: shape to which images are resized; None: any shape.
      build: function from a canvas to the encoder for its images.
      card: facts about the encoder's training.
      multiple: number of pixels that must divide the side of an image, such as a ViT's patch.
      read: ignored parts of a published file, and assumptions; empty for other encoders.
    """

    title: str
    remark: str
    trained: bool
    canvas: Canvas | None
    build: Callable[[Canvas], Encoder]
    card: dict = dataclasses.field(default_factory=dict)
    multiple: int = 1
    read: str = ""


def encoder_named(text: str, *, seed: int = 0) -> NamedEncoder:
    """Returns the encoder that a text names.

    Example:
      >>> encoder_named("pixels").title, encoder_named("untrained:resnet18", seed=3).title
      ('raw pixels', 'untrained resnet18, random weights of seed 3')

    Args:
      text: `bundled`, a run's folder or a file, see `open_encoder`; `pixels`; `untrained`, a small conv net; or
        `untrained:NAME` with a name in `ENCODERS`.
      seed: random seed of the weights of an untrained encoder.

    Raises:
      ValueError: the text does not name an encoder.
    """
    kind, colon, name = text.partition(":")
    if text == PIXELS:
        remark = (
            "Raw pixels, at most 32 x 32, distinguish sources by brightness, colour and their positions in the image, not by "
            f"what the pictures show. {_BETTER}"
        )
        return NamedEncoder("raw pixels", remark, False, None, lambda canvas: pixel_encoder)
    if kind == UNTRAINED:
        if colon and name not in ENCODERS:
            raise ValueError(f"Expected one of {', '.join(ENCODERS)} after {UNTRAINED}:, got {text!r}.")
        module = ENCODERS[name] if name else SMALL
        remark = (
            "An untrained network distinguishes sources by colour, edges and texture, which depend on cameras, light and "
            f"materials, not by what the pictures show. {_BETTER}"
        )
        title = f"untrained {name or 'small conv net'}, random weights of seed {seed}"
        multiple = getattr(module, "patch", 1)

        def build(canvas: Canvas) -> Encoder:
            return NetworkEncoder(untrained_encoder(module, canvas, seed), _BATCH)

        return NamedEncoder(title, remark, False, None, build, multiple=multiple)
    encoder = open_encoder(text)
    return NamedEncoder(
        _title(encoder, text),
        _GENERATED if is_bundled(text) else "",
        not is_bundled(text),
        Canvas(*encoder.shape),
        lambda canvas: NetworkEncoder(encoder, _BATCH),
        dict(encoder.card),
        read=how_it_was_read(encoder),
    )


def untrained_encoder(module, canvas: Canvas, seed: int) -> PretrainedEncoder:
    """Returns a network with random weights, for images of a canvas.

    Training starts with zero-initialised residual branches. Here the branches are active: with zero-initialised branches the
    network would compute almost nothing.

    Raises:
      ValueError: the network does not accept images of this shape.
    """
    variables = branches_on(_initialise(module, canvas)(jax.random.key(seed)))
    return PretrainedEncoder(module, {"batch_stats": {}} | variables, tuple(canvas))


def branches_on(variables):
    """Returns the variables with all norm scales set to 1; in ResNets, the last norm of each branch starts with scale 0."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if path[-1].key == "scale" else leaf, dict(variables)
    )


@functools.lru_cache(maxsize=8)
def _initialise(module, canvas: Canvas):
    """Returns a function from a key to variables. It is cached, because compiling it takes seconds."""
    images = jnp.zeros((2, *canvas))
    return jax.jit(lambda key: module.init(key, images, train=False))


def _title(encoder: PretrainedEncoder, text: str) -> str:
    card = encoder.card
    if is_published(encoder):
        return f"{card['name']} ({card['architecture']})"
    method = card.get("method", {}).get("name", "")
    if is_bundled(text):
        return f"the bundled encoder ({method} on generated images)"
    about = ", ".join(filter(None, [method, f"trained on {card['mixture']}" if "mixture" in card else ""]))
    return f"the encoder of {text}" + (f" ({about})" if about else "")
