"""Weighted nearest-neighbour classification on frozen features."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def knn_scores(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    *,
    neighbours: int,
    temperature: float,
    classes: int,
    block: int = 1000,
) -> np.ndarray:
    """Votes for each class of the most similar training images, `[n_test, classes]`.

    Similarity is the cosine, a vote weighs exp(similarity / temperature). Of equally similar images the earlier one counts.
    Memory is `block * n_train`.

    Args:
      train: features `[n_train, dim]`.
      labels: of the training images, int `[n_train]`.
      test: features `[n_test, dim]`.
      neighbours: k, at most `n_train`.
      temperature: above 0.
      classes: number of classes.
      block: test images compared at a time.

    References:
      Wu et al., `Unsupervised Feature Learning via Non-Parametric Instance Discrimination
      <https://arxiv.org/abs/1805.01978>`_, 2018
    """
    if not 1 <= neighbours <= len(train):
        raise ValueError(f"kNN needs 1 to {len(train):,} neighbours (the training images), not {neighbours:,}.")
    labels, train = np.asarray(labels), jnp.asarray(_unit(train))
    scores = np.empty((len(test), classes))
    for start in range(0, len(test), block):
        similarity, index = (np.asarray(part) for part in _nearest(train, _unit(test[start : start + block]), neighbours))
        # The largest similarity is taken off first: exp(1 / temperature) would overflow at a low temperature.
        weight = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
        cell = np.arange(len(index))[:, None] * classes + labels[index]
        votes = np.bincount(cell.ravel(), weight.ravel(), minlength=len(index) * classes)
        scores[start : start + block] = votes.reshape(-1, classes)
    return scores


# Voting stays outside: fused with it, XLA's CPU backend sorts whole rows in place of selecting k.
@functools.partial(jax.jit, static_argnums=2)
def _nearest(train, test, neighbours):
    return lax.top_k(jnp.matmul(test, train.T, precision=lax.Precision.HIGHEST), neighbours)


def _unit(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
