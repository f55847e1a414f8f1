"""A planned mixture as features: drawn from those of its components, without looking at an image again."""

from collections.abc import Mapping

import numpy as np

from sslshift.data.mixture import apportion


def blend(features: Mapping[str, np.ndarray], shares: Mapping[str, float]) -> np.ndarray:
    """Features of a mixture: the first of each component's, in exact proportion, as many as the scarcest allows.

    Example:
      >>> import numpy as np
      >>> parts = {"near": np.zeros((10, 1)), "far": np.ones((3, 1))}
      >>> blend(parts, {"near": 0.5, "far": 0.5}).ravel().tolist()
      [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]

    Args:
      features: of each component's images `[n, dim]`, in random order.
      shares: of the mixture, by component; they sum to 1.

    Returns:
      `[n, dim]`, component by component.

    Raises:
      ValueError: shares that do not sum to 1, or a component without features.
    """
    unknown = [name for name in shares if name not in features]
    if unknown:
        raise ValueError(
            f"A mixture of {', '.join(shares)} needs features of {', '.join(unknown)}; there is {', '.join(features)}."
        )
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"Shares of a mixture must be at least 0 and sum to 1, not {dict(shares)}.")
    used = {name: share for name, share in shares.items() if share}
    # A component with too few images for its share makes the sample smaller, not the share.
    count = min(int(len(features[name]) / share + 1e-9) for name, share in used.items())
    total = sum(used.values())
    counts = apportion(count, [share / total for share in used.values()])
    return np.concatenate([features[name][:part] for name, part in zip(used, counts, strict=True)])
