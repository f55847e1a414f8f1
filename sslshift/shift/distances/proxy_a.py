"""The proxy A-distance: how well a linear classifier distinguishes two sets of features on held-out images."""

import functools
import hashlib
from typing import NamedTuple

import jax
import numpy as np

from sslshift.shift._base import Distance, blocks, float64, pair
from sslshift.transfer.linear_probe import fit_probe


class TwoSampleTest(NamedTuple):
    """Result of a classifier between two sets on held-out images, each set with half of the weight, averaged over the folds.

    Attributes:
      distance: 2 (1 - 2 error).
      error: share of wrong decisions; 0.5 means that the sets are indistinguishable.
      loss: cross-entropy in nats; log 2 at chance. It keeps falling after the error has reached 0.
      images: number of images of each side.
    """

    distance: float
    error: float
    loss: float
    images: int


def proxy_a_distance(x: np.ndarray, y: np.ndarray, *, key: jax.Array, folds: int = 2, strength: float = 0.1) -> float:
    """Returns the proxy A-distance: 2 (1 - 2 err) of a regularised linear classifier between x and y on held-out images.

    The distance saturates at 2 if no image is misclassified; `classifier_two_sample` returns the held-out loss as well.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 4))
      >>> proxy_a_distance(x, y + 10, key=jax.random.key(0))
      2.0

    Args:
      x: features `[n, dim]`, of at least `folds` different images.
      y: features `[m, dim]`, of at least `folds` different images.
      key: PRNG key of the folds, and of the choice of images if one side has more: both sides have the same weight.
      folds: number of folds, each of which is held out once.
      strength: l2 penalty, strength / 2 * |weights|^2 added to the mean cross-entropy, on standardised features.

    Returns:
      A number from -2 to 2. If the sets are indistinguishable, it is near 0, and below 0 as often as above.

    Raises:
      ValueError: shapes do not fit, too few images, or features are not finite.

    References:
      Ben-David et al., `Analysis of Representations for Domain Adaptation
      <https://papers.nips.cc/paper/2983-analysis-of-representations-for-domain-adaptation>`_, 2006
    """
    return classifier_two_sample(x, y, key=key, folds=folds, strength=strength).distance


def classifier_two_sample(
    x: np.ndarray, y: np.ndarray, *, key: jax.Array, folds: int = 2, strength: float = 0.1
) -> TwoSampleTest:
    """Returns `proxy_a_distance` with the held-out error and loss.

    Equal images are in the same fold, on whichever side they are, so that no held-out image was fitted on. Folds are drawn by
    key and content, so that the order of rows does not matter.

    Example:
      >>> import jax, numpy as np
      >>> x, y = np.random.default_rng(0).normal(size=(2, 200, 4))
      >>> near, far = (classifier_two_sample(x, y + shift, key=jax.random.key(0)) for shift in (10, 20))
      >>> near.error == far.error == 0, far.loss < near.loss < 0.69  # the error has saturated, the loss has not
      (True, True)

    Args:
      x, y, key, folds, strength: as for `proxy_a_distance`.

    Raises:
      ValueError: as by `proxy_a_distance`.

    References:
      Lopez-Paz & Oquab, `Revisiting Classifier Two-Sample Tests <https://arxiv.org/abs/1610.06545>`_, 2017
    """
    if folds < 2 or not strength > 0:
        raise ValueError(f"A proxy A-distance needs at least 2 folds and a strength above 0, not {folds} and {strength}.")
    x, y = pair(x, y, f"A proxy A-distance of {folds} folds", folds)
    # Images are chosen and split by their content, not by their position: the order of rows must not matter.
    (x, tags_x), (y, tags_y) = _chosen(x, y, key)
    fold_x, fold_y = _folds(tags_x, tags_y, folds)
    x, y = _levelled(x, y)
    parts = [
        _held_out((x[fold_x != fold], y[fold_y != fold]), (x[fold_x == fold], y[fold_y == fold]), strength)
        for fold in range(folds)
    ]
    error, loss = np.mean(parts, axis=0)
    return TwoSampleTest(float(2 * (1 - 2 * error)), float(error), float(loss), len(x))


def _chosen(x: np.ndarray, y: np.ndarray, key: jax.Array) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns equally many images of each side, in the order of their tags, and these tags."""
    secret = np.asarray(jax.random.key_data(key)).tobytes()
    tags = [np.array([_tag(row, secret) for block in blocks(each) for row in block], np.uint64) for each in (x, y)]
    count = min(len(x), len(y))
    orders = [np.argsort(tag, kind="stable")[:count] for tag in tags]
    return [(each[order], tag[order]) for each, order, tag in zip((x, y), orders, tags, strict=True)]


def _tag(row: np.ndarray, secret: bytes) -> int:
    """Returns a random number of the content. Adding 0 turns -0.0 into 0.0, whose bytes differ though they are equal."""
    return int.from_bytes(hashlib.blake2b((row + 0.0).tobytes(), digest_size=8, key=secret).digest())


def _folds(x: np.ndarray, y: np.ndarray, folds: int) -> list[np.ndarray]:
    """Returns the fold of each image by its tag: images on both sides are distributed first, then each side's own."""
    # Images on both sides are dealt out first, in one order for both: a copy is then held out together with its original.
    both = np.intersect1d(x, y)
    dealt = []
    for side, tags in (("first", x), ("second", y)):
        order = np.concatenate([both, np.setdiff1d(tags, both)])
        if len(order) < folds:
            raise ValueError(
                f"A proxy A-distance of {folds} folds needs {folds} different images a side, not {len(order)} on the {side}."
            )
        sorter = np.argsort(order)
        dealt.append(sorter[np.searchsorted(order, tags, sorter=sorter)] % folds)
    return dealt


def _levelled(x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Returns both sets in float32 with every feature moved and scaled to -1 to 1: float32 may not hold the original values."""
    # After the first image is subtracted, a constant feature of any size is exactly 0.
    first = float64(x, slice(0, 1))
    mean = sum((block - first).sum(axis=0) for each in (x, y) for block in blocks(each)) / (len(x) + len(y))
    centre = first + mean
    largest = np.max([np.abs(block - centre).max(axis=0) for each in (x, y) for block in blocks(each)], axis=0)
    # A feature that varies by rounding alone counts as constant. Whole numbers are never rounded.
    coarse = any(each.dtype.kind not in "iub" and each.dtype.itemsize < 8 for each in (x, y))
    rounding = np.finfo(np.float32 if coarse else np.float64).eps * np.abs(centre)
    scale = np.where(largest > 8 * rounding, largest, np.inf)
    return [np.concatenate([((block - centre) / scale).astype(np.float32) for block in blocks(each)]) for each in (x, y)]


def _held_out(
    fitted: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray], strength: float
) -> tuple[float, float]:
    """Returns error and loss on held-out images of both sides, each side with half of the weight."""
    # Equal images stay together, so that one side of a fold can have more of them.
    count = min(map(len, fitted))
    features = np.concatenate([side[:count] for side in fitted])
    labels = np.repeat([0, 1], count)
    # The same probe as for downstream accuracy, so that both have the same capacity.
    probe = fit_probe(features, labels, classes=2, l2_penalties=(strength,))
    errors = []
    losses = []
    for label, side in enumerate(held):
        scores = np.asarray(probe.scores(side, 0), np.float64)
        errors.append(np.mean(scores.argmax(axis=1) != label))
        # Cross-entropy of two classes from the difference of their scores, which does not overflow.
        losses.append(np.mean(np.logaddexp(0.0, scores[:, 1 - label] - scores[:, label])))
    return float(np.mean(errors)), float(np.mean(losses))


PROXY_A = Distance(
    "proxy A",
    10,
    "of a linear classifier; at most 2, which distant sources all reach",
    lambda key, pool: functools.partial(proxy_a_distance, key=key),
    no_index="its classifier distinguishes better with every further image, near sources most",
)
