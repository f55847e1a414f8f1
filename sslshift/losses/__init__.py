"""Self-supervised losses as pure functions of arrays: `[batch, dim]` in, a scalar out, hyperparameters by keyword.

They import nothing of ours, work under `jit`, `grad` and `vmap`, under `jit` over a sharded batch, and with `axis_name=`
inside `shard_map`, where they return the loss of the global batch.
"""

from sslshift.losses.nt_xent import nt_xent
from sslshift.losses.vicreg import vicreg

__all__ = ["nt_xent", "vicreg"]
