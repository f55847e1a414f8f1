"""Guards of a run: steps whose loss or gradient is not finite, which stop the run or are skipped and counted."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

# What a run does at a step whose loss or gradient is not finite.
STOP = "stop"
SKIP = "skip"
ON_NONFINITE = (STOP, SKIP)

# Scalar of a guarded step: 1 if it was not applied.
SKIPPED = "skipped"

# A run in which more steps are skipped does not train on the data that its budget states.
_MOST_IN_A_ROW = 10
_MOST_SHARE = 0.05


class NonFiniteError(RuntimeError):
    """The loss or its gradient is not finite."""


class FiniteGuard:
    """Stops a run at a step that is not finite, or after too many skipped steps.

    A run that skips steps stops after more than 10 of them in a row, or if they are more than 10 and more than 5% of all steps.

    Args:
      folder: folder of the run, for the message.
      steps: number of steps of the run.
      earlier: lines of metrics up to the checkpoint from which the run continues, so that a resumed run stops at the same step.
      latest: function that returns the step of the latest checkpoint, for the message.
    """

    def __init__(self, folder: Path, steps: int, earlier: Iterable[Mapping[str, Any]], latest: Callable[[], int | None]):
        self._folder = folder
        self._latest = latest
        self._most = max(_MOST_IN_A_ROW, int(_MOST_SHARE * steps))
        self._count = 0
        self._row = 0
        for line in earlier:
            self._add(bool(line.get(SKIPPED)))

    def checked(self, step: int, scalars: dict[str, float]) -> dict[str, float]:
        """Returns the scalars of a step for its line of metrics; those of a skipped step that are not finite are omitted.

        Raises:
          NonFiniteError: the step is not finite and was applied, or too many steps were skipped.
        """
        skipped = bool(scalars.get(SKIPPED))
        self._add(skipped)
        finite = {name: value for name, value in scalars.items() if math.isfinite(value)}
        if not skipped and len(finite) < len(scalars):
            self._stop(f"Step {step:,} of {self._folder} gave {scalars}, which is not finite")
        if self._row > _MOST_IN_A_ROW or self._count > self._most:
            self._stop(
                f"Step {step:,} of {self._folder} is the last of {self._count:,} skipped steps, {self._row:,} of them in a "
                "row, whose loss or gradient was not finite; at most "
                f"{self._most:,} of a run may be skipped, and {_MOST_IN_A_ROW} in a row"
            )
        return finite

    def _add(self, skipped: bool) -> None:
        self._count += skipped
        self._row = self._row + 1 if skipped else 0

    def _stop(self, what: str) -> NoReturn:
        # Asked for here only, since the answer waits for a checkpoint that is being written.
        latest = self._latest()
        good = f"step {latest:,} in {self._folder}" if latest else "none yet"
        raise NonFiniteError(
            f"{what}: training stopped. The last good checkpoint: {good}. Try a lower learning rate in another folder."
        )


def skipped_steps(lines: Iterable[Mapping[str, Any]]) -> int:
    """Returns the number of skipped steps among the lines of a run's metrics."""
    return sum(bool(line.get(SKIPPED)) for line in lines)
