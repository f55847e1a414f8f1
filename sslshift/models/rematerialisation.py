"""Rematerialisation: a backward pass that computes a block again in place of keeping what is inside it."""

import flax.linen as nn
import jax


def through(block: nn.Module, x: jax.Array, *, train: bool, remat: bool) -> jax.Array:
    """Returns the output of a block of an encoder.

    Args:
      block: the block, called with an array and `train=`.
      x: input of the block.
      train: whether the block is in training mode.
      remat: whether training keeps only the input of the block for the backward pass, which then computes the block again: a
        third more computation, and memory for the activations of one block in place of all.
    """
    # Only training has a backward pass, and the outputs of blocks can be watched from outside only without it.
    if not (train and remat):
        return block(x, train=train)
    return nn.remat(lambda block, x: block(x, train=train))(block, x)
