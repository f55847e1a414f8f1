"""Checkpoints of a run's training state. The only file that knows orbax."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from sslshift.training.state import TrainState

PyTree = Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the last good one."""


class NotWrittenError(CheckpointError):
    """A checkpoint could not be written: the disk is full, or the folder is not to be written to."""


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

    def save(self, state: TrainState, step: int, online: PyTree = None) -> None:
        """Writes the state after `step` steps, and beside it that of an online probe if there is one.

        Raises:
          CheckpointError: e.g. the disk is full; earlier checkpoints stay as they are.
        """
        last = self.latest
        try:
            with _quiet():
                parts = {"state": state} | ({} if online is None else {"online": online})
                self._orbax.save_checkpointables(step, parts, force=True)
        except Exception as error:  # Orbax and tensorstore raise many kinds; all mean the same here.
            self._failed = True
            kept = "there is no earlier one" if last is None else f"the last good one is step {last:,}"
            raise NotWrittenError(
                f"The checkpoint of step {step:,} could not be written to {self._folder} ({_reason(error)}); {kept}. "
                "Free some space and give the same command again: the run goes on from there."
            ) from error

    def restore(self, like: TrainState) -> TrainState:
        """The latest state, placed as `like` is.

        Raises:
          CheckpointError: it does not fit `like`, or cannot be read.
        """
        with self._reading():
            return self._load("state", like)

    def restore_online(self, like: PyTree) -> PyTree:
        """The latest state of an online probe, placed as `like` is; `like` itself where there is none of its shapes.

        Raises:
          CheckpointError: it cannot be read.
        """
        with self._reading():
            parts = self._orbax.checkpointables_metadata(self.latest).metadata
            # Of damaged arrays orbax knows no shapes and gives None: reading them says what is wrong.
            if "online" not in parts or (parts["online"] is not None and _shapes(parts["online"]) != _shapes(like)):
                return like
            return self._load("online", like)

    def _load(self, name: str, like: PyTree) -> PyTree:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._orbax.load_checkpointables(self.latest, {name: abstract})[name]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with _quiet():
                yield
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


def _shapes(tree: PyTree) -> list[tuple[str, tuple[int, ...]]]:
    """Paths and shapes of a tree's arrays; sorted, since orbax's own trees have keys in place of fields, in another order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return sorted((jax.tree_util.keystr(path, simple=True), leaf.shape) for path, leaf in leaves)


def _reason(error: BaseException) -> str:
    """The error in one line; of a long one the end, where the operating system's own words stand."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 160 else '... ' + text[-150:]}"
