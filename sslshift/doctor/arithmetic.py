"""Checks of the device's arithmetic: a product, and a ResNet forwards and backwards, against NumPy."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.doctor.findings import PASS, Check, Finding, agreement
from sslshift.doctor.references import resnet
from sslshift.models import ResNet

# Largest relative differences. TF32 and bfloat16 keep 10 and 7 bits of each factor: about 5e-4 and 4e-3 of a product.
_PRODUCT = 2e-2
_NETWORK = 5e-2
# Differences above this show that the device does not multiply in float32.
_FLOAT32 = 1e-5
_REDUCED = (
    "This device rounds the factors of float32 products (TF32, bfloat16). JAX_DEFAULT_MATMUL_PRECISION=highest avoids it, at a "
    "cost; evaluations do so by themselves."
)
_RESNET = ResNet((1, 1), width=8, small_images=True)


def check_product(folder: Path) -> Finding:
    """Returns whether a float32 product agrees with NumPy, and advice if the device rounds its factors."""
    del folder
    x, y = np.random.default_rng(0).normal(size=(2, 512, 512)).astype(np.float32)
    return product_finding(jnp.asarray(x) @ jnp.asarray(y), x.astype(np.float64) @ y.astype(np.float64))


def product_finding(found: np.ndarray, expected: np.ndarray) -> Finding:
    """Returns the finding about a float32 product."""
    finding = agreement(found, expected, _PRODUCT)
    exact = agreement(found, expected, _FLOAT32).verdict == PASS
    return finding if exact or finding.verdict != PASS else finding._replace(advice=_REDUCED)


def check_network(folder: Path) -> Finding:
    """Returns whether the features of a small ResNet agree with NumPy."""
    del folder
    images, variables, _ = _problem()
    found = jax.jit(lambda variables, images: _RESNET.apply(variables, images, train=False))(variables, images)
    return agreement(found, resnet(_float64(variables), np.asarray(images, np.float64)), _NETWORK)


def check_gradient(folder: Path) -> Finding:
    """Returns whether the gradient of a small ResNet agrees with a difference quotient of NumPy, along several directions."""
    del folder
    images, variables, weights = _problem()

    def loss(params):
        return jnp.sum(_RESNET.apply(variables | {"params": params}, images, train=False) * weights)

    gradient = _float64(jax.jit(jax.grad(loss))(variables["params"]))
    exact = _float64(variables)
    random = np.random.default_rng(1)
    found = []
    expected = []
    for _ in range(4):
        # Along the gradient, which no sum of independent terms makes small, and then more and more beside it.
        direction = jax.tree.map(lambda g: g + len(found) * np.abs(g).mean() * random.normal(size=g.shape), gradient)
        ends = [jax.tree.map(lambda p, d, step=step: p + step * d, exact["params"], direction) for step in (1e-7, -1e-7)]
        up, down = (np.sum(resnet(exact | {"params": end}, np.asarray(images, np.float64)) * weights) for end in ends)
        expected.append((up - down) / 2e-7)
        found.append(sum(np.vdot(g, d) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)))
    return agreement(found, expected, _NETWORK)


def _problem():
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 8, 8, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: _RESNET.init(jax.random.key(0), images, train=False))
    # Random values for all variables, because norms that scale by 0 would hide the blocks; variances must be above 0.
    variables = jax.tree.map(lambda leaf: (random.normal(size=leaf.shape) ** 2 / 4 + 0.1).astype(np.float32), shapes)
    signs = jax.tree.map(lambda leaf: np.sign(random.normal(size=leaf.shape)).astype(np.float32), shapes["params"])
    params = jax.tree.map(np.multiply, variables["params"], signs)
    return images, {**variables, "params": params}, random.normal(size=(4, 16)).astype(np.float32)


def _float64(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


CHECKS: dict[str, Check] = {
    "device/product": check_product,
    "device/network": check_network,
    "device/gradient": check_gradient,
}
