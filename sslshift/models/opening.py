"""One way to every encoder that lies in a file: of a run of ours, or one that others published."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sslshift.models.pretrained import PretrainedEncoder
from sslshift.models.reference.checkpoints import CHECKPOINTS
from sslshift.models.reference.loading import load_reference
from sslshift.models.weights import load_encoder


def open_encoder(path: str | os.PathLike) -> PretrainedEncoder:
    """An encoder by a path; what it is, its content tells.

    Args:
      path: a run's folder, a `.safetensors` file that `save_encoder` wrote, or a file of a published encoder, see
        `load_reference`.

    Raises:
      ValueError: there is no such path (where to get one is said), or what is there is no encoder.
    """
    if not os.fspath(path):
        raise ValueError("No encoder is named: name a run's folder or a file of weights.")
    path = Path(path).expanduser()
    if str(path) in CHECKPOINTS and not path.exists():
        raise ValueError(
            f"{path} is a known encoder, but no file: python -m tools.fetch_encoder {path} --out=. fetches "
            f"{path}.safetensors, whose path is to be named."
        )
    if not path.exists():
        raise ValueError(
            f"There is no run folder or file {path}; python -m tools.fetch_encoder NAME fetches a well-known encoder "
            f"({', '.join(CHECKPOINTS)})."
        )
    return load_encoder(path) if path.is_dir() or _has_card(path) else load_reference(path)


def is_published(encoder: PretrainedEncoder) -> bool:
    """Whether it is one of `load_reference`, by its card."""
    return "sha256" in encoder.card and "architecture" in encoder.card


def _has_card(file: Path) -> bool:
    """Whether a file has a card of `save_encoder`, be it damaged or not: then `load_encoder` tells what is wrong."""
    try:
        with safe_open(file, framework="numpy") as opened:
            card: Any = json.loads((opened.metadata() or {}).get("card", "null"))
            ours = any(name.startswith("params/") for name in opened.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError):
        return False
    return ours or (isinstance(card, dict) and "format" in card)
