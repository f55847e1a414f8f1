"""Mixup, CutMix and label smoothing: pairs of training images and their label vectors are mixed in the same proportions."""

import jax
import jax.numpy as jnp


def label_vectors(labels: jax.Array, classes: int, smoothing: float) -> jax.Array:
    """Returns labels as targets, float32 `[n, classes]`.

    With one label for each image, this share of the label's weight is distributed equally over all classes. With several
    labels, each class is a binary target, which moves by this share from 0 or 1 towards 1/2.

    Example:
      >>> label_vectors(jnp.array([2]), 4, 0.5).tolist()
      [[0.125, 0.125, 0.625, 0.125]]
      >>> label_vectors(jnp.array([[1, 0, 1]]), 3, 0.5).tolist()
      [[0.75, 0.25, 0.75]]

    Args:
      labels: int `[n]`, or 0/1 `[n, classes]`.
      classes: number of classes.
      smoothing: share in [0, 1).

    References:
      Szegedy et al., `Rethinking the Inception Architecture for Computer Vision <https://arxiv.org/abs/1512.00567>`_, 2016
    """
    if labels.ndim == 1:
        return jax.nn.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    return labels.astype(jnp.float32) * (1 - smoothing) + smoothing / 2


def share_map(key: jax.Array, height: int, width: int, *, mixup: float, cutmix: float) -> jax.Array:
    """Returns the weight of an image's own pixels, float32 `[height, width]` in [0, 1], with one draw for a whole batch.

    With mixup, the weight is the same everywhere and drawn from Beta(mixup, mixup). With CutMix, it is 0 in a box and 1 around
    it; the relative area of the box is drawn from Beta(cutmix, cutmix), its centre is uniform, and it is cut off at the border.
    If both parameters are above 0, each method is used for half of the batches.

    Args:
      key: a PRNG key.
      height, width: size of the images.
      mixup: parameter of mixup; 0: no mixup.
      cutmix: parameter of CutMix; 0: no CutMix.

    References:
      Zhang et al., `mixup: Beyond Empirical Risk Minimization <https://arxiv.org/abs/1710.09412>`_, 2018
      Yun et al., `CutMix: Regularization Strategy to Train Strong Classifiers <https://arxiv.org/abs/1905.04899>`_, 2019
    """
    # The choice is made when the step is traced, because the parameters are settings and not arrays.
    if not mixup and not cutmix:
        return jnp.ones((height, width))
    # One draw for the whole batch, as in MAE's recipe.
    which, draw, place = jax.random.split(key, 3)
    boxed = jax.random.bernoulli(which) if mixup and cutmix else bool(cutmix)
    concentration = jnp.where(boxed, cutmix, mixup)
    share = jax.random.beta(draw, concentration, concentration)
    return jnp.where(boxed, _outside_box(place, height, width, share), share)


def _outside_box(key: jax.Array, height: int, width: int, area: jax.Array) -> jax.Array:
    """Returns 0 in a box of this relative area at a random place, and 1 around it; `[height, width]`."""

    def inside(key, size):
        # Both sides are scaled by the square root of the area, so that the box has the proportions of the image.
        length = (jnp.sqrt(area) * size).astype(jnp.int32)
        first = jax.random.randint(key, (), 0, size) - length // 2
        return (jnp.arange(size) >= first) & (jnp.arange(size) < first + length)

    row, column = jax.random.split(key)
    return 1.0 - (inside(row, height)[:, None] & inside(column, width)[None]).astype(jnp.float32)


def mix_pairs(images: jax.Array, targets: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns mixed images and targets: the first image is mixed with the last, the second with the second last, and so on.

    Args:
      images: images `[batch, height, width, channels]`.
      targets: label vectors `[batch, classes]`.
      own: result of `share_map`, `[height, width]`.

    Returns:
      Images and targets; the mean of `own` is the weight of the image's own target.
    """
    pixels = own[None, :, :, None]
    # The weight uses the actual area of the box, without the part that is cut off at the border.
    share = own.mean()
    return images * pixels + images[::-1] * (1 - pixels), targets * share + targets[::-1] * (1 - share)
