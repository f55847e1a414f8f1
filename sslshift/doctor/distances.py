"""Checks of the distances and diversity scores, on small sets of features against NumPy."""

import functools
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from sslshift import shift
from sslshift.doctor import distance_references as reference
from sslshift.doctor.findings import Check, Finding, agreement

KEY = 0
# Distances in float64 agree to rounding, except for these. The RBF MMD that tables show leaves out a part of at most 0.0007;
# the proxy A-distance comes from a classifier on other folds.
_TOLERANCES = {"rbf_mmd": 1e-3, "proxy_a": 0.1}
_TOLERANCE = 1e-6


def features() -> tuple[np.ndarray, np.ndarray]:
    """Returns two sets of features, float32 `[600, 6]`, that differ in mean and in scale."""
    x, y = np.random.default_rng(0).normal(size=(2, 600, 6))
    return x.astype(np.float32), (0.8 * y + 0.7).astype(np.float32)


REFERENCES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "kernel": reference.kernel_distance,
    "kernel_root": lambda x, y: np.sqrt(reference.kernel_distance(x, y)),
    "frechet": reference.frechet_distance,
    "frechet_extrapolated": functools.partial(reference.frechet_extrapolated, seed=KEY),
    "rbf_mmd": reference.rbf_mmd,
    "visual_dna": reference.visual_dna_distance,
    "sliced_wasserstein": functools.partial(reference.sliced_wasserstein, seed=KEY),
    "proxy_a": reference.proxy_a_distance,
}

# Each score and its reference, of two sets or of the first one alone.
SCORES: dict[str, tuple[Callable, Callable]] = {
    "vendi_score": (lambda x, y: shift.vendi_score(x), lambda x, y: reference.vendi_score(x)),
    "effective_rank": (lambda x, y: shift.effective_rank(x), lambda x, y: reference.effective_rank(x)),
    "precision_recall": (shift.precision_recall, reference.precision_recall),
    "density_coverage": (shift.density_coverage, reference.density_coverage),
}


def check_distance(name: str, folder: Path) -> Finding:
    """Returns whether a distance of `sslshift.shift.DISTANCES` agrees with NumPy."""
    del folder
    x, y = features()
    found = shift.DISTANCES[name].on(jax.random.key(KEY), x, y)(x, y)
    expected = REFERENCES[name](x.astype(np.float64), y.astype(np.float64))
    return agreement(found, expected, _TOLERANCES.get(name, _TOLERANCE))


def check_score(name: str, folder: Path) -> Finding:
    """Returns whether a score of diversity or of neighbourhoods agrees with NumPy."""
    del folder
    x, y = features()
    score, expected = SCORES[name]
    return agreement(np.asarray(score(x, y)), np.asarray(expected(x.astype(np.float64), y.astype(np.float64))), _TOLERANCE)


CHECKS: dict[str, Check] = {
    **{f"shift/{name}": functools.partial(check_distance, name) for name in shift.DISTANCES},
    **{f"shift/{name}": functools.partial(check_score, name) for name in SCORES},
}
