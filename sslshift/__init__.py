"""sslshift: which data should a self-supervised encoder be pretrained on, at a fixed budget?

The packages, from the ground up (each imports only from those before it, see the contracts in pyproject.toml): `extras`,
`cluster`, `clock`, `cache`; `stopping`; `arrays`, `command`, `storage`; `heartbeat`, `shards`, `array_cache`; `reporting`;
`losses`, `models`, `budget`; `data`; `methods`; `training`; `transfer`; `shift`; `planning`, `study`;
`decision`, `machines`, `doctor`, `simulation`.
Their docstrings explain them and say which files to touch; the README has the words.

`losses`, `models` and `methods` need JAX, Flax, Optax and Chex only; everything else needs the extra `study`.
"""

from typing import TYPE_CHECKING

from sslshift.budget import Budget
from sslshift.extras import lazy_names

if TYPE_CHECKING:
    from sslshift.models import load_encoder, save_encoder

__all__ = ["Budget", "load_encoder", "save_encoder"]

# Those who import only the losses need not wait for the models.
__getattr__ = lazy_names(__name__, {"load_encoder": "models", "save_encoder": "models"})
