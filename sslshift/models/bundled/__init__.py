"""The encoder that ships with the package: `open_encoder("bundled")` opens it, as do all flags that take an encoder.

It was trained on generated images alone (`sslshift.data.scenes`, CC0), and so far briefly: `experiments/README.md` says what it
is worth. Its card, in `encoder.json` and in the header of the weights, says how it was trained. The file stands in for a better
one, which `python -m tools.make_bundled_encoder` makes from a run of `experiments.reference_encoder`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sslshift import storage
from sslshift.models import weights
from sslshift.models.pretrained import PretrainedEncoder

NAME = "bundled"
FOLDER = Path(__file__).parent
# The package stays small enough for an index of packages.
LARGEST_FILE = 6_000_000
_MANIFEST = "manifest.json"


def load_bundled(folder: Path = FOLDER) -> PretrainedEncoder:
    """Returns the encoder that ships with the package, in float32.

    Raises:
      ValueError: the file is missing, or its digest differs from the digest in the manifest.
    """
    file = folder / weights.ENCODER
    try:
        wanted = json.loads((folder / _MANIFEST).read_text())["sha256"]
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"The bundled encoder cannot be read ({error}); reinstall the package.") from error
    if digest != wanted:
        raise ValueError(f"{file} does not have the content that {_MANIFEST} describes; reinstall the package.")
    return _as_dtype(weights.read_encoder(file), np.float32)


def write_bundled(encoder: PretrainedEncoder, facts: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Writes an encoder as the one that ships with the package: weights in float16, card and digest.

    Args:
      encoder: the encoder of a run of generated images.
      facts: entries to add to its card, such as the time that the training took.
      folder: folder for the three files.

    Raises:
      ValueError: a weight is not finite in float16, or the file is larger than `LARGEST_FILE`.
    """
    # Without `mixture`, tables call the encoder by its name.
    card = {name: value for name, value in encoder.card.items() if name not in ("mixture", "shift")}
    card = {"name": NAME, "trained_on": encoder.card.get("mixture", "")} | card | dict(facts)
    small = dataclasses.replace(_as_dtype(encoder, np.float16), card=card)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(small.variables)):
        raise ValueError("Expected weights that are finite in float16; the encoder has larger ones.")
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(small.variables))
    if size > LARGEST_FILE:
        raise ValueError(f"Expected at most {LARGEST_FILE:,} bytes of weights in float16, got {size:,}.")
    file = weights.save_encoder(small, folder / weights.ENCODER)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    storage.write(folder / _MANIFEST, json.dumps({"file": file.name, "sha256": digest}, indent=2) + "\n")
    return file


def _as_dtype(encoder: PretrainedEncoder, dtype) -> PretrainedEncoder:
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), encoder.variables)
    # `jnp.asarray` would compile a program for each shape.
    return dataclasses.replace(encoder, variables=jax.device_put(variables))
