"""Self-supervised losses as pure functions of arrays: `[batch, dim]` in, a scalar out, hyperparameters by keyword.

Of this package they import only `sslshift.arrays`. They work under `jit`, `grad` and `vmap`, under `jit` over a sharded batch,
and with `axis_name=` inside `shard_map`, where they return the loss of the global batch (`negative_cosine`, `dino` and
`masked_reconstruction` are means over images and take no `axis_name`). `alignment`, `uniformity`, `effective_rank` and
`collapse` are signals to watch, not losses to minimise.

Arrays may have any floating dtype; hyperparameters may be traced or learnt. The mesh of a sharded batch may have Auto or
Explicit axes; outside of `jit`, JAX takes gradients over Explicit axes only under `jax.set_mesh`. No loss relies on implicit
promotion of ranks or dtypes. Losses that compare directions do not depend on the length of an embedding; the cosine of a
zero embedding with any other is 0, and it receives no gradient. Shapes are checked before anything is traced; the error is a
ValueError of one sentence.

One file holds one objective: `nt_xent` (SimCLR), `info_nce` (MoCo v3), `negative_cosine` (BYOL, SimSiam), `barlow_twins`,
`vicreg`, `dino`, `masked_reconstruction` (MAE), `nnclr` and `swav`; `diagnostics` has the signals, `_batch` the helpers. To add
a loss, write its file and its line below.

The tests: `test_losses` and `test_more_losses` compare each loss with values computed by hand, naive NumPy loops and finite
differences, and its value on one device with its value on eight; `test_swav` does the same for SwAV; `test_extremes` uses
embeddings of any length, and `test_settings` hyperparameters that are traced and learnt.
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
