"""sslshift: which data should a self-supervised encoder be pretrained on, at a fixed budget?

The rooms, from the ground up (each imports only from those before it): `arrays`, `losses`, `budget`, `models`, `data`,
`methods`, `training`, `transfer`, `shift`, `study`. Their package docstrings explain them; the README has the words.
"""

from typing import TYPE_CHECKING, Any

from sslshift.budget import Budget

if TYPE_CHECKING:
    from sslshift.models import load_encoder, save_encoder

__all__ = ["Budget", "load_encoder", "save_encoder"]


def __getattr__(name: str) -> Any:
    # Who imports only the losses need not wait for the models.
    if name in ("load_encoder", "save_encoder"):
        from sslshift import models

        return getattr(models, name)
    raise AttributeError(f"module 'sslshift' has no attribute {name!r}")
