"""What probes fit on: features with mean 0 and variance 1 over the training split, and labels that fit them."""

from typing import NamedTuple

import numpy as np

# Images worked on at a time.
_BLOCK = 512


class Standard(NamedTuple):
    """What features are standardised by: their mean, and their standard deviation (1 where constant), float64 `[dim]`.

    It works in blocks: no copy of the features in float64 is made.
    """

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardised features, float32 `[n, dim]`."""
        out = np.empty(features.shape, np.float32)
        # In float32 the mean is a sum of two numbers: the first difference is exact where the features lie close to it.
        near = self.mean.astype(np.float32)
        parts = (near, (self.mean - near).astype(np.float32)) if features.dtype == np.float32 else (self.mean,)
        scale = self.scale.astype(parts[0].dtype)
        for start in range(0, len(features), _BLOCK):
            block = features[start : start + _BLOCK]
            for part in parts:
                block = block - part
            np.divide(block, scale, out=out[start : start + _BLOCK], casting="same_kind")
        return out


def standard_of(features: np.ndarray) -> Standard:
    """Mean and standard deviation of features `[n, dim]`.

    Raises:
      ValueError: not `[n, dim]`, no image, or a feature is not finite.
    """
    features = np.asarray(features)
    if features.ndim != 2 or not features.size:
        raise ValueError(f"A probe needs training features [images, dim] of at least one image, not {list(features.shape)}.")
    count = 0
    mean = np.zeros(features.shape[1])
    squares = np.zeros(features.shape[1])
    for start in range(0, len(features), _BLOCK):
        block = features[start : start + _BLOCK].astype(np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise ValueError(f"The features of training image {start + int(np.argmin(finite)):,} are not finite.")
        # Deviations from the block's own mean, then joined (Chan et al., 1979): no cancellation at a large mean.
        centre = block.mean(axis=0)
        block -= centre
        squares += np.einsum("nd,nd->d", block, block) + np.square(centre - mean) * (count * len(block) / (count + len(block)))
        count += len(block)
        mean += (centre - mean) * (len(block) / count)
    deviation = np.sqrt(squares / count)
    # A unit that varies less than rounding error is constant; dividing by it would blow up noise.
    floor = np.maximum(1e-6 * np.abs(mean), np.finfo(np.float32).tiny)
    return Standard(mean, np.where(deviation > floor, deviation, 1.0))


def require_labels(labels: np.ndarray, images: int, classes: int) -> None:
    """Raises ValueError unless labels are int `[images]` below `classes`, or 0/1 `[images, classes]`."""
    shape = labels.shape
    several = labels.ndim == 2
    if shape != ((images, classes) if several else (images,)):
        raise ValueError(f"Labels [{images:,}] or [{images:,}, {classes:,}] are needed for these features, not {list(shape)}.")
    if labels.dtype.kind not in "iub" or labels.min() < 0 or labels.max() >= (2 if several else classes):
        allowed = "0 and 1" if several else f"whole numbers from 0 to {classes - 1:,}"
        raise ValueError(f"Labels must be {allowed}, not {labels.dtype} from {labels.min()} to {labels.max()}.")
