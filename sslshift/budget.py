"""The budget C, unique samples N, epochs E and diversity D: the only module that converts between them."""

import dataclasses


@dataclasses.dataclass(frozen=True, order=True)
class Budget:
    """Number C of training samples that a run sees, over all sources; all compared runs have the same budget.

    Example:
      >>> budget = Budget(60_000)
      >>> budget.epochs(20_000), budget.steps(256), round(budget.diversity(20_000), 3)
      (3.0, 234, 0.333)

    Args:
      samples: C, a positive whole number of images.

    Raises:
      ValueError: the number is not a positive whole number.

    References:
      Hammoud et al., `On Pretraining Data Diversity for Self-Supervised Learning
      <https://arxiv.org/abs/2403.13808>`_, 2024
    """

    samples: int

    def __post_init__(self):
        if self.samples != int(self.samples) or self.samples < 1:
            raise ValueError(f"Expected a budget that is a positive whole number of samples, got {self.samples!r}.")
        object.__setattr__(self, "samples", int(self.samples))

    def epochs(self, unique: int) -> float:
        """Returns E = C / N, the mean number of times that each of `unique` samples is seen."""
        return self.samples / self._checked(unique)

    def diversity(self, unique: int) -> float:
        """Returns D = N / C, in (0, 1]; 1 means that no sample is seen twice."""
        return self._checked(unique) / self.samples

    def steps(self, batch_size: int) -> int:
        """Returns the number of whole batches of `batch_size` samples that fit into the budget."""
        if batch_size < 1:
            raise ValueError(f"Expected a batch of at least one sample, got {batch_size}.")
        if batch_size > self.samples:
            raise ValueError(
                f"The budget of {self.samples:,} samples is smaller than one batch of {batch_size:,}; "
                "raise the budget or lower the batch size."
            )
        return self.samples // batch_size

    def whole_batches(self, batch_size: int) -> "Budget":
        """Returns this budget, rounded down to a whole number of batches."""
        return Budget(self.steps(batch_size) * batch_size)

    def _checked(self, unique: int) -> int:
        if not 1 <= unique <= self.samples:
            raise ValueError(f"Expected 1 to {self.samples:,} unique samples, at most the size of the budget, got {unique:,}.")
        return unique
