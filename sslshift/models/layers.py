"""Which layer of an encoder a parameter belongs to, for learning rates that differ with depth."""

import re
from typing import Any

import jax

PyTree = Any


def layer_numbers(params: PyTree) -> PyTree:
    """A number per leaf: 0 for an encoder's stem, embedding and positions, i + 1 for its block i, one more for all after it.

    Args:
      params: of networks with an `encoder`, beside which everything else counts as after the last block.

    Raises:
      ValueError: there is no encoder.
    """
    if "encoder" not in params:
        raise ValueError(f"Layers are counted from the parameters of an 'encoder'; there are {', '.join(params)}.")
    blocks = [int(match[1]) for name in params["encoder"] if (match := re.fullmatch(r"block(\d+)", name))]
    last = max(blocks, default=-1) + 2

    def number(path, leaf):
        del leaf
        names = [entry.key for entry in path]
        if names[0] != "encoder" or names[1] == "norm":
            return last
        match = re.fullmatch(r"block(\d+)", names[1])
        return int(match[1]) + 1 if match else 0

    return jax.tree_util.tree_map_with_path(number, params)
