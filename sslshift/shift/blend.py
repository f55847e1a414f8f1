"""A planned mixture as features: drawn from those of its components, without looking at an image again."""

from collections.abc import Mapping

import numpy as np

from sslshift.data.mixture import apportion
from sslshift.data.permutation import permute

# What the seeded order of a mixture is for; 1 to 7 are the sample plan's, the subsets' and the splits'.
_MIXED = 8


def blend(features: Mapping[str, np.ndarray], shares: Mapping[str, float], most: int | None = None) -> np.ndarray:
    """Features of a mixture: the first of each component's, in exact proportion, mixed.

    Ask for as many as are needed with `most`: the first rows of a larger blend hold the shares by chance only.

    Example:
      >>> import numpy as np
      >>> parts = {"near": np.zeros((10, 1)), "far": np.ones((3, 1))}
      >>> blend(parts, {"near": 0.5, "far": 0.5}).ravel().tolist()
      [1.0, 0.0, 0.0, 1.0, 1.0, 0.0]
      >>> blend(parts, {"near": 0.5, "far": 0.5}, most=4).ravel().tolist()
      [0.0, 1.0, 0.0, 1.0]

    Args:
      features: of each component's images `[n, dim]`, in random order.
      shares: of the mixture, by component; they sum to 1.
      most: images of the mixture at most; None: as many as the scarcest component allows.

    Returns:
      `[n, dim]`, in an order that depends on n alone.

    Raises:
      ValueError: shares that do not sum to 1, or a component without features.
    """
    unknown = [name for name in shares if name not in features]
    if unknown:
        raise ValueError(
            f"A mixture of {', '.join(shares)} needs features of {', '.join(unknown)}; there is {', '.join(features)}."
        )
    counts = blend_counts({name: len(features[name]) for name in shares}, shares, most)
    parts = np.concatenate([features[name][:count] for name, count in counts.items()])
    return parts[permute(np.arange(len(parts)), max(1, len(parts)), _MIXED, 0)] if len(counts) > 1 else parts


def blend_counts(have: Mapping[str, int], shares: Mapping[str, float], most: int | None = None) -> dict[str, int]:
    """Images of each component in a blend, in exact proportion.

    Example:
      >>> blend_counts({"near": 10, "far": 3}, {"near": 0.75, "far": 0.25})
      {'far': 3, 'near': 9}

    Args:
      have: images of each component.
      shares, most: as of `blend`.

    Raises:
      ValueError: shares that do not sum to 1.
    """
    if min(shares.values(), default=-1) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"Shares of a mixture must be at least 0 and sum to 1, not {dict(shares)}.")
    # By name: the same mixture is the same sample, in whatever order somebody wrote it down.
    used = {name: shares[name] for name in sorted(shares) if shares[name]}
    total = sum(used.values())

    def counts(count: int) -> dict[str, int]:
        return dict(zip(used, apportion(count, [share / total for share in used.values()]), strict=True))

    if most is not None and all(count <= have[name] for name, count in counts(most).items()):
        return counts(most)
    # A component with too few images for its share makes the sample smaller, not the share.
    return counts(min(int(have[name] / share + 1e-9) for name, share in used.items()))
