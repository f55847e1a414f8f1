"""Builders for tests of online reports: a watch over some steps, and comparisons."""

import jax
import jax.numpy as jnp

from sslshift.data.views import make_view
from sslshift.training.online import Watch
from sslshift.training.step import make_mesh, replicate

SIGNALS = {"effective_rank", "alignment", "uniformity"}


PROBE = {"online_loss", "online_accuracy"}


def seeded_views(method, images):
    """By the method's first and last settings, which are its only two, or its only one."""
    keys = [jax.random.fold_in(jax.random.key(5), i) for i in range(2)]
    make = jax.jit(make_view, static_argnums=2)
    return [make(key, images, view) for key, view in zip(keys, (method.views[0], method.views[-1]), strict=True)]


def variables(scale=1.0, offset=0.0):
    return replicate(make_mesh(), {"scale": jnp.float32(scale), "offset": jnp.float32(offset)})


def watched(method, online, variables, steps):
    watch = Watch(online, method, make_mesh())
    probe = watch.start(variables)
    for step in range(1, steps + 1):
        probe = watch.learn(probe, variables, step)
    return probe, {name: float(value) for name, value in watch.report(probe, variables).items()}
