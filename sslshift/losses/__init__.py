"""Self-supervised losses as pure functions of arrays: `[batch, dim]` in, a scalar out, hyperparameters by keyword.

They import of ours only `sslshift.arrays`, work under `jit`, `grad` and `vmap`, under `jit` over a sharded batch, and with
`axis_name=` inside `shard_map`, where they return the loss of the global batch (`negative_cosine`, `dino` and
`masked_reconstruction` are means over images and take none). `alignment`, `uniformity`, `effective_rank` and `collapse` are not
minimised but watched.

Arrays may have any floating dtype; hyperparameters may be traced, and learnt. The mesh of a sharded batch may have Auto or
Explicit axes; outside of `jit`, JAX takes gradients over Explicit axes only under `jax.set_mesh`. Nothing is left to implicit
promotion of ranks or dtypes. What compares directions depends on the length of no embedding; one that is zero has a cosine of 0
to everything and receives no gradient.
"""

from sslshift.losses.barlow_twins import barlow_twins
from sslshift.losses.diagnostics import alignment, collapse, effective_rank, uniformity
from sslshift.losses.dino import dino, dino_center
from sslshift.losses.info_nce import info_nce
from sslshift.losses.masked_reconstruction import masked_reconstruction
from sslshift.losses.negative_cosine import negative_cosine
from sslshift.losses.nnclr import nnclr
from sslshift.losses.nt_xent import nt_xent
from sslshift.losses.swav import sinkhorn, swapped_prediction, swav
from sslshift.losses.vicreg import vicreg

__all__ = [
    "alignment",
    "barlow_twins",
    "collapse",
    "dino",
    "dino_center",
    "effective_rank",
    "info_nce",
    "masked_reconstruction",
    "negative_cosine",
    "nnclr",
    "nt_xent",
    "sinkhorn",
    "swapped_prediction",
    "swav",
    "uniformity",
    "vicreg",
]
