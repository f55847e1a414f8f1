"""Builders for tests of methods and of training: an initial state, the views of a batch, the value of a loss, equal trees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.data.views import ViewSettings
from sslshift.methods import METHODS
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import init_state

STEPS = 10


def start(method, canvas, optimiser=None):
    optimiser = optimiser or Optimiser("sgd", learning_rate=0.1).build(STEPS, 16, method.constant_rate)
    return optimiser, init_state(method, optimiser, jax.random.key(0), jnp.zeros(canvas, jnp.uint8))


def views_of(method, images, number=0):
    key = jax.random.key(number)
    return method.make_views(key, jnp.asarray(images)), method.step_context(key, images, jnp.float32(0.5))


def value_of(method, state, views, context):
    return method.loss(state.variables, state.target, views, context)[0]


def equal(a, b):
    """Whether two trees have the same values to the bit."""
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def plain(view: ViewSettings) -> ViewSettings:
    """A view that is cropped and mirrored alone."""
    return dataclasses.replace(view, jitter_probability=0.0, blur_probability=0.0, solarise_probability=0.0)


def heads_of(name, encoder):
    """Of each head the widths of its layers, with `b` for a bias, `n` for a norm behind it and `a` for one with scale."""
    method = METHODS[name].build(encoder)
    batch = jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    found = {}
    for head in ("projector", "predictor"):
        layers = variables["params"].get(head, {})
        stats = variables["batch_stats"].get(head, {})
        dense = [layers[f"Dense_{i}"] for i in range(sum(key.startswith("Dense") for key in layers))]
        marks = [str(layer["kernel"].shape[1]) + "b" * ("bias" in layer) for layer in dense]
        for i in range(len(stats)):
            marks[i] += "a" if f"BatchNorm_{i}" in layers else "n"
        found[head] = " ".join(marks)
    return found["projector"], found["predictor"]
