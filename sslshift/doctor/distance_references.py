"""References in NumPy and float64 for the checks of distances and diversity scores."""

import jax
import numpy as np
from scipy.spatial.distance import cdist

from sslshift.doctor.references import logistic_regression, standardised


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the unbiased squared MMD under the kernel (x.y / dim + 1)^3."""
    of_x, of_y, between = ((a @ b.T / a.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = [(each.sum() - each.trace()) / (len(each) * (len(each) - 1)) for each in (of_x, of_y)]
    return sum(within) - 2 * between.mean()


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns |mean_x - mean_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)), the root by the eigenvalues of the product."""
    s, t = (np.cov(each, rowvar=False) for each in (x, y))
    roots = np.sqrt(np.linalg.eigvals(s @ t).real.clip(0))
    return np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + np.trace(s + t) - 2 * roots.sum()


def frechet_extrapolated(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Returns 2 d(n) - d(n / 2), with random halves by the key of this seed."""
    random = _generator(seed)
    x, y = (each[random.permutation(len(each))] for each in (x, y))
    return 2 * frechet_distance(x, y) - np.mean([frechet_distance(x[half::2], y[half::2]) for half in (0, 1)])


def rbf_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Returns 1000 times the squared MMD under the kernel exp(-|a - b|^2 / 200) on rows of length 1."""
    x, y = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (x, y))
    means = [np.exp(-cdist(a, b, "sqeuclidean") / 200).mean() for a, b in ((x, x), (y, y), (x, y))]
    return 1000 * (means[0] + means[1] - 2 * means[2])


def visual_dna_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns the mean over features of the earth mover's distance of histograms of 1,000 bins, in bins."""
    ends = np.array([np.minimum(x.min(axis=0), y.min(axis=0)), np.maximum(x.max(axis=0), y.max(axis=0))])
    counts = [[np.histogram(each, 1000, span)[0] for each, span in zip(side.T, ends.T, strict=True)] for side in (x, y)]
    shares = [np.cumsum(each, axis=1) / len(side) for each, side in zip(counts, (x, y), strict=True)]
    return np.abs(shares[0] - shares[1]).sum(axis=1).mean()


def sliced_wasserstein(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Returns the mean of the Wasserstein-2 distances along 256 directions, of sets of equal size."""
    axes = _generator(seed).normal(size=(256, x.shape[1])).T
    x, y = (np.sort(each @ (axes / np.linalg.norm(axes, axis=0)), axis=0) for each in (x, y))
    return np.sqrt(np.square(x - y).mean(axis=0)).mean()


def proxy_a_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns 2 (1 - 2 error) of a logistic regression on held-out halves; the halves are other ones than the package's."""
    features = np.concatenate([x, y])
    labels = np.repeat([0, 1], [len(x), len(y)])
    errors = []
    for half in (0, 1):
        fitted = np.arange(len(labels)) % 2 == half
        scaled = standardised(features, features[fitted])
        weights, bias = logistic_regression(scaled[fitted], labels[fitted], 2, 0.1)
        errors.append(np.mean((scaled[~fitted] @ weights + bias).argmax(axis=1) != labels[~fitted]))
    return 2 * (1 - 2 * np.mean(errors))


def vendi_score(x: np.ndarray) -> float:
    """Returns the exponential of the entropy of the eigenvalues of the cosines divided by n, which are those of x' x / n."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    shares = np.linalg.eigvalsh(x.T @ x / len(x))
    return np.exp(-np.sum(shares * np.log(shares)))


def effective_rank(x: np.ndarray) -> float:
    """Returns the exponential of the entropy of the singular values."""
    values = np.linalg.svd(x, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return np.exp(-np.sum(shares * np.log(shares)))


def precision_recall(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the share of y inside balls around x up to the fifth neighbour, and the share of x inside those around y."""
    return _inside(x, y).any(axis=0).mean(), _inside(y, x).any(axis=0).mean()


def density_coverage(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the mean number of balls around x that contain an image of y, over 5, and the share of balls that contain one."""
    found = _inside(x, y)
    return found.sum() / (5 * len(y)), found.any(axis=1).mean()


def _inside(centres, points):
    # The smallest distance within a set is that of an image from itself.
    radii = np.sort(cdist(centres, centres), axis=1)[:, 5]
    return cdist(centres, points) < radii[:, None]


def _generator(seed):
    return np.random.default_rng(np.asarray(jax.random.key_data(jax.random.key(seed))).ravel().tolist())
