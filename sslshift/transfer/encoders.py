"""The encoder that somebody typed: a file, a run, raw pixels, or an untrained network; and what it can see, in words."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from sslshift.data.decode import Canvas
from sslshift.models import ENCODERS, PretrainedEncoder, ResNet
from sslshift.models.opening import how_it_was_read, is_published, open_encoder
from sslshift.transfer.features import Encoder, NetworkEncoder, pixel_encoder

# Images at a time: sets of a few dozen are filled up to it, and a CPU is no faster with more.
_BATCH = 100
PIXELS = "pixels"
UNTRAINED = "untrained"
# About 500 images of 64 pixels in a second of CPU time. Of four small networks at random weights it alone put noise farther
# from the bundled clothes than digits, discs and inverted clothes; a ViT and ResNets of another stem or silent blocks did not.
SMALL = ResNet((1, 1, 1, 1), width=32)
_BETTER = (
    "For what is in the pictures take a trained encoder: python -m tools.fetch_encoder dinov2-small, then "
    "--encoder=dinov2-small.safetensors."
)


@dataclasses.dataclass(frozen=True)
class NamedEncoder:
    """An encoder by name.

    Attributes:
      title: what tables call it.
      remark: what it can see and what it cannot; empty if it was trained.
      trained: whether its features mean more than colour and texture.
      canvas: what images are brought to; None: it takes any.
      build: the encoder itself, for images of a canvas.
      card: what is known of it.
      multiple: of which a side has to be one, such as a ViT's patch.
      read: what of a published file was left behind, and what was assumed; empty for other encoders.
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
    """An encoder out of text.

    Example:
      >>> encoder_named("pixels").title, encoder_named("untrained:resnet18", seed=3).title
      ('raw pixels', 'untrained resnet18, random weights of seed 3')

    Args:
      text: a run's folder or a file, see `open_encoder`; `pixels`; `untrained`, a small conv net, or `untrained:NAME` of
        `ENCODERS`.
      seed: of the weights of an untrained one.

    Raises:
      ValueError: it is none of these.
    """
    kind, colon, name = text.partition(":")
    if text == PIXELS:
        remark = (
            "Raw pixels, at most 32 x 32, tell sources apart by brightness, colour and where these lie, not by what the "
            f"pictures show. {_BETTER}"
        )
        return NamedEncoder("raw pixels", remark, False, None, lambda canvas: pixel_encoder)
    if kind == UNTRAINED:
        if colon and name not in ENCODERS:
            raise ValueError(f"{text!r} names no encoder of ours; after {UNTRAINED}: there is {', '.join(ENCODERS)}.")
        module = ENCODERS[name] if name else SMALL
        remark = (
            "An untrained network tells sources apart by colour, edges and texture, such as other cameras, light or materials "
            f"leave; it does not know what the pictures show. {_BETTER}"
        )
        title = f"untrained {name or 'small conv net'}, random weights of seed {seed}"
        multiple = getattr(module, "patch", 1)

        def build(canvas: Canvas) -> Encoder:
            return NetworkEncoder(untrained_encoder(module, canvas, seed), _BATCH)

        return NamedEncoder(title, remark, False, None, build, multiple=multiple)
    encoder = open_encoder(text)
    return NamedEncoder(
        _title(encoder, text),
        "",
        True,
        Canvas(*encoder.shape),
        lambda canvas: NetworkEncoder(encoder, _BATCH),
        dict(encoder.card),
        read=how_it_was_read(encoder),
    )


def untrained_encoder(module, canvas: Canvas, seed: int) -> PretrainedEncoder:
    """A network with random weights, for images of a canvas.

    Training starts with residual blocks that add nothing (their last scale is 0); here they add from the start, since else
    hardly a layer would be left.

    Raises:
      ValueError: the network does not take such images.
    """
    variables = branches_on(_initialise(module, canvas)(jax.random.key(seed)))
    return PretrainedEncoder(module, {"batch_stats": {}} | variables, tuple(canvas))


def branches_on(variables):
    """The variables with the scale of every norm at 1: ResNets start with that of each branch's last norm at 0."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.ones_like(leaf) if path[-1].key == "scale" else leaf, dict(variables)
    )


@functools.lru_cache(maxsize=8)
def _initialise(module, canvas: Canvas):
    """From a key to variables, compiled once: that takes seconds."""
    images = jnp.zeros((2, *canvas))
    return jax.jit(lambda key: module.init(key, images, train=False))


def _title(encoder: PretrainedEncoder, text: str) -> str:
    card = encoder.card
    if is_published(encoder):
        return f"{card['name']} ({card['architecture']})"
    method = card.get("method", {}).get("name", "")
    about = ", ".join(filter(None, [method, f"trained on {card['mixture']}" if "mixture" in card else ""]))
    return f"the encoder of {text}" + (f" ({about})" if about else "")
