"""Training: the state, one pure step, its compilation over a mesh, the loop, checkpoints and metrics.

A run is a function of (method, optimiser, plan, seed): the batch, the views and the initial weights of any step follow from
them, so an interrupted run continues from its checkpoint to the same bits.
"""
