"""Mixup and CutMix: training images are mixed in pairs, and their label vectors in the same shares. And label smoothing."""

import jax
import jax.numpy as jnp


def label_vectors(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Labels as targets, float32 `[n, classes]`.

    With one label an image, smoothing moves that part of its weight to all classes in equal shares. With several, each class
    is a question of its own, and smoothing moves its answer that far from 0 or 1 towards 1/2.

    Example:
      >>> label_vectors(jnp.array([2]), 4, 0.5).tolist()
      [[0.125, 0.125, 0.625, 0.125]]
      >>> label_vectors(jnp.array([[1, 0, 1]]), 3, 0.5).tolist()
      [[0.75, 0.25, 0.75]]

    Args:
      labels: int `[n]`, or 0/1 `[n, classes]`.
      classes: number of classes.
      smoothing: in [0, 1).

    References:
      Szegedy et al., `Rethinking the Inception Architecture for Computer Vision <https://arxiv.org/abs/1512.00567>`_, 2016
    """
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return labels.astype(jnp.float32) * (1 - smoothing) + smoothing / 2


def share_map(key: jax.Array, height: int, width: int, *, mixup: float, cutmix: float) -> jax.Array:
    """How much of each pixel remains an image's own, float32 `[height, width]` in [0, 1]; one draw for a whole batch.

    Mixup: the same share everywhere, from Beta(mixup, mixup). CutMix: 0 in a box and 1 around it; the box's area is a share
    from Beta(cutmix, cutmix), its centre lies anywhere, and what reaches beyond the image is cut off. Where both are above 0,
    each is used for half of the batches.

    Args:
      key: a PRNG key.
      height, width: of the images.
      mixup: parameter of mixup; 0: none.
      cutmix: parameter of CutMix; 0: none.

    References:
      Zhang et al., `mixup: Beyond Empirical Risk Minimization <https://arxiv.org/abs/1710.09412>`_, 2018
      Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers <https://arxiv.org/abs/1905.04899>`_, 2019
    """
    if not mixup and not cutmix:
        return jnp.ones((height, width))
    which, draw, place = jax.random.split(key, 3)
    boxed = jax.random.bernoulli(which) if mixup and cutmix else bool(cutmix)
    strength = jnp.where(boxed, cutmix, mixup)
    share = jax.random.beta(draw, strength, strength)
    return jnp.where(boxed, _outside_box(place, height, width, share), share)


def _outside_box(key: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """0 in a box of this share of the area at a random place, 1 around it; `[height, width]`."""

    def inside(key, size):
        length = (jnp.sqrt(area) * size).astype(jnp.int32)
        first = jax.random.randint(key, (), 0, size) - length // 2
        return (jnp.arange(size) >= first) & (jnp.arange(size) < first + length)

    row, column = jax.random.split(key)
    return 1.0 - (inside(row, height)[:, None] & inside(column, width)[None]).astype(jnp.float32)


def mix_pairs(images: jax.Array, targets: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each image mixed with the one as far from the batch's end as it is from the beginning, and their targets alike.

    Args:
      images: `[batch, height, width, channels]`.
      targets: label vectors `[batch, classes]`.
      own: from `share_map`, `[height, width]`.

    Returns:
      Images, and targets in shares of area: the mean of `own` counts for the image's own.
    """
    pixels = own[None, :, :, None]
    share = own.mean()
    return images * pixels + images[::-1] * (1 - pixels), targets * share + targets[::-1] * (1 - share)
