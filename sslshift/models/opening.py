"""Opening of any encoder: that of a run, a published one in a file, or the one that ships with the package."""

import difflib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from safetensors import SafetensorError, safe_open

from sslshift.models import bundled, weights
from sslshift.models.description import Modules
from sslshift.models.pretrained import PretrainedEncoder
from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.loading import load_reference
from sslshift.models.reference.naming import shown

_HUB_FILE = "model.safetensors"


def _numbers(text: str) -> float | tuple[float, ...]:
    numbers = tuple(float(number) for number in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


# The options that may follow the path; they have the names of the arguments of `load_reference`.
OPTIONS: dict[str, Callable[[str], Any]] = {
    "part": str,
    "heads": int,
    "epsilon": float,
    "stem": str,
    "size": int,
    "mean": _numbers,
    "std": _numbers,
    "features": str,
}
# For the help of flags that take an encoder.
HOW_TO_SAY = (
    "'bundled' is the encoder that ships with the package. "
    "Options of a published encoder follow its path, 'checkpoint.safetensors?part=teacher&heads=12': part of several encoders, "
    "heads, epsilon, stem=cifar, size, mean, std, features."
)


def open_encoder(path: str | os.PathLike, modules: Modules = ()) -> PretrainedEncoder:
    """Returns the encoder at a path; the file's content determines how it is read.

    Args:
      path: a run's folder, a `.safetensors` file that `save_encoder` wrote, a file of a published encoder (see
        `load_reference`), a folder of a hub that holds a `model.safetensors`, or `bundled`, the encoder that ships with the
        package. The path of a published encoder may be followed by the options of `load_reference` that `OPTIONS` lists:
        `checkpoint.safetensors?part=teacher&heads=12`. Values are percent-encoded: `&` is written `%26`.
      modules: encoder classes of other packages, see `load_encoder`.

    Raises:
      ValueError: there is no such path (the message says where to get an encoder), an option is unknown, or the file holds no
        encoder.
    """
    if is_bundled(path):
        return bundled.load_bundled()
    if not os.fspath(path):
        raise ValueError("Expected a run's folder or a file of weights, got an empty path.")
    file, options = _parsed(path)
    if str(file) in CHECKPOINTS and not file.exists():
        raise ValueError(
            f"Expected the path of a file, got {file}, the name of a known encoder. Run "
            f"python -m tools.fetch_encoder {file} --out=. and give the path of {file}.safetensors."
        )
    if not file.exists():
        raise ValueError(
            f"There is no run folder or file {file}; python -m tools.fetch_encoder NAME fetches a well-known encoder "
            f"({', '.join(CHECKPOINTS)})."
        )
    # If a folder holds both, the encoder of the run is read and not the file of a hub.
    if file.is_dir() and not (file / weights.ENCODER).exists() and (file / _HUB_FILE).is_file():
        file = file / _HUB_FILE
    if not (file.is_dir() or _has_card(file)):
        return load_reference(file, **options)
    if options:
        raise ValueError(
            f"{file} is an encoder of sslshift, whose card contains all settings: it takes no options. "
            f"Remove ?{next(iter(options))}=."
        )
    return weights.read_encoder(file, modules)


def load_encoder(path: str | os.PathLike, modules: Modules = ()) -> PretrainedEncoder:
    """Returns the encoder of a finished run, of a file that `save_encoder` wrote, or of a published file.

    In one line: `apply, params = load_encoder("results/quickstart/runs/...")`; then `apply(images)` returns features, and
    `apply(images, params)` is the same as a function of the parameters.

    Args:
      path: path of the encoder, as `open_encoder` takes it.
      modules: encoder classes of other packages, `[MyEncoder]` for an encoder of that class. A file only names its class; no
        code is imported for it.

    Raises:
      ValueError: there is no such file, the run is not finished, the encoder is of a class that was not passed, or the file is
        damaged or does not fit its card.
    """
    if is_bundled(path):
        return bundled.load_bundled()
    file, options = _parsed(path)
    hub = (file / _HUB_FILE).is_file() and not (file / weights.ENCODER).exists()
    published = hub or (file.is_file() and not _has_card(file) and (file.suffix != ".safetensors" or _readable(file)))
    return open_encoder(path, modules) if published or options else weights.read_encoder(file, modules)


def is_bundled(path: str | os.PathLike) -> bool:
    """Returns whether a path is the name of the encoder that ships with the package; a file of that name is `./bundled`."""
    return os.fspath(path) == bundled.NAME


def is_published(encoder: PretrainedEncoder) -> bool:
    """Returns whether the encoder's card shows that `load_reference` read it."""
    return "sha256" in encoder.card and "architecture" in encoder.card


def how_it_was_read(encoder: PretrainedEncoder) -> str:
    """Returns, for a published encoder, the tensors left behind and the facts stated and assumed; empty for other encoders."""
    card = encoder.card
    if not is_published(encoder):
        return ""
    said = {"Left behind": "left_behind", "Stated": "stated", "Assumed": "assumed"}
    part = f", part {card['part']}" if card.get("part") else ""
    sentences = [f"{what}: {', '.join(card[name])}." for what, name in said.items() if card.get(name)]
    return shown(" ".join([f"Read from {card['file']}{part}.", *sentences]))


def _parsed(path: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Returns the path without its options, and the options.

    Raises:
      ValueError: an option is unknown, given twice, or has an invalid value.
    """
    text = os.fspath(path)
    whole = Path(text).expanduser()
    start, mark, query = text.rpartition("?")
    # A file may have a question mark in its name.
    if not mark or whole.exists():
        return whole, {}
    options: dict[str, Any] = {}
    for setting in query.split("&"):
        name, equals, value = setting.partition("=")
        if name not in OPTIONS or not equals or name in options:
            wrong = "given twice" if name in options else "not an option of an encoder"
            near = "".join(f" Did you mean {each}=?" for each in difflib.get_close_matches(name.lower(), OPTIONS, 1) if equals)
            raise ValueError(f"{text}: {setting!r} is {wrong}; write NAME=VALUE with one of {', '.join(OPTIONS)}.{near}")
        try:
            options[name] = OPTIONS[name](unquote(value))
        except ValueError:
            kind = {int: "a whole number", float: "a number"}.get(OPTIONS[name], "a number, or three with commas between them")
            raise ValueError(f"{text}: {name}= takes {kind}, not {value!r}.") from None
        if options[name] == "":
            raise ValueError(f"{text}: {name}= has no value.")
    return Path(start).expanduser(), options


def _readable(file: Path) -> bool:
    try:
        with safe_open(file, framework="numpy"):
            return True
    except (SafetensorError, OSError):
        return False


def _has_card(file: Path) -> bool:
    """Returns whether a file has a card of `save_encoder`, even a damaged one: `load_encoder` then reports the damage."""
    try:
        with safe_open(file, framework="numpy") as opened:
            card: Any = json.loads((opened.metadata() or {}).get("card", "null"))
            # keys() is needed, since an opened file is not iterable.
            ours = any(name.startswith("params/") for name in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError):
        return False
    return ours or (isinstance(card, dict) and "format" in card)
