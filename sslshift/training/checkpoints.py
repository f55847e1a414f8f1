"""Checkpoints of a run's training state. The only file that knows orbax."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
from orbax.checkpoint import v1 as ocp

from sslshift.training.state import TrainState


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the last good one."""


class Checkpoints:
    """The two latest checkpoints in a folder. A checkpoint appears under its name only when it is complete."""

    def __init__(self, folder: Path):
        self._folder, self._failed = folder, False
        with _quiet():
            self._orbax = ocp.training.Checkpointer(
                folder.absolute(),
                save_decision_policy=ocp.training.save_decision_policies.AnySavePolicy(()),
                preservation_policy=ocp.training.preservation_policies.LatestN(2),
                cleanup_tmp_directories=True,
            )

    @property
    def latest(self) -> int | None:
        """Number of steps done at the latest complete checkpoint."""
        return self._orbax.latest.step if self._orbax.latest else None

    def save(self, state: TrainState, step: int) -> None:
        """Writes the state after `step` steps.

        Raises:
          CheckpointError: e.g. the disk is full; earlier checkpoints stay as they are.
        """
        last = self.latest
        try:
            with _quiet():
                self._orbax.save_checkpointables(step, {"state": state}, force=True)
        except Exception as error:  # Orbax and tensorstore raise many kinds; all mean the same here.
            self._failed = True
            kept = "there is no earlier one" if last is None else f"the last good one is step {last:,}"
            raise CheckpointError(
                f"The checkpoint of step {step:,} could not be written to {self._folder} ({_reason(error)}); {kept}. "
                "Free some space and give the same command again: the run goes on from there."
            ) from error

    def restore(self, like: TrainState) -> TrainState:
        """The latest state, placed as `like` is.

        Raises:
          CheckpointError: it does not fit `like`, or cannot be read.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        try:
            with _quiet():
                return self._orbax.load_checkpointables(self.latest, {"state": abstract})["state"]
        except Exception as error:
            raise CheckpointError(
                f"The checkpoint of step {self.latest:,} in {self._folder} cannot be read ({_reason(error)}); "
                "delete its folder to go on from the one before."
            ) from error

    def close(self) -> None:
        # After a failed save orbax raises the same error again, which would hide the sentence that was raised for it.
        with _quiet(), contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
            self._orbax.close()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs every save, and a failure some dozen times with its traceback; errors are raised all the same."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The error in one line; of a long one the end, where the operating system's own words stand."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 160 else '... ' + text[-150:]}"
