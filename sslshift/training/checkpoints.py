"""Checkpoints of a run's training state. No other file imports orbax."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from sslshift import cluster
from sslshift.command import causes, remedy
from sslshift.training.digests import DIGESTS, find_damage, write_digests
from sslshift.training.step import TrainState

PyTree = Any


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message names the last good one."""


class NotWrittenError(CheckpointError):
    """A checkpoint could not be written; the message gives the cause."""


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


class Checkpoints:
    """The two latest checkpoints in a folder. A checkpoint appears under its name only when it is complete.

    Checkpoints are written in the background: `save` returns when the state has been copied, and the next `save`, `wait` or
    `close` waits until the file is complete.

    A checkpoint that was damaged since then, or has no digests of its files because the process was killed before it wrote
    them, is not used: the run continues from the one before.

    Args:
      folder: folder of the checkpoints.
      note: called with a sentence about a checkpoint that is not used.

    Raises:
      CheckpointError: all checkpoints are damaged.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = _to_stderr):
        # Imported here, since it takes a tenth of a command's start.
        from orbax.checkpoint import v1 as ocp

        self._folder = folder
        self._note = note
        self._failed = False
        self._writing: _Writing | None = None
        self._thread = ThreadPoolExecutor(1, "digests")
        # A background write logs at any time, so that orbax is silent until the folder is closed.
        _ABSL.addFilter(_not_from_orbax)
        # The bits of trained weights hardly compress: compression would take a third of the time and save 7% of the space.
        saving = ocp.options.ArrayOptions.Saving(use_compression=False)
        self._orbax = ocp.training.Checkpointer(
            folder.absolute(),
            context=ocp.Context(array_options=ocp.options.ArrayOptions(saving=saving)),
            # This empty policy never saves by itself: the training loop decides when, and `save` passes `force=True`.
            save_decision_policy=ocp.training.save_decision_policies.AnySavePolicy(()),
            # Two checkpoints are kept, so that a run can continue from the earlier one if the latest is damaged.
            preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT),
            # A run that is killed while it saves leaves an incomplete folder.
            cleanup_tmp_directories=True,
        )
        self._complete: int | None = None
        self._unusable: list[int] = []
        try:
            # Process 0 has written the files, and the checkpoint with which a run continues must be the same for all.
            self._complete, self._unusable = cluster.first("usable checkpoints", self._find_usable)
        except CheckpointError:
            self.close()
            raise

    def _find_usable(self) -> tuple[int | None, list[int]]:
        """Returns the newest checkpoint that is as it was written, and those after it, which are not."""
        complete: int | None = None
        found: dict[int, str] = {}
        for step in sorted((each.step for each in self._orbax.checkpoints), reverse=True):
            damage = self._damage(step)
            if not damage:
                complete = step
                break
            found[step] = damage
        if not found:
            return complete, []
        which = "; ".join(f"step {step:,}: {damage}" for step, damage in found.items())
        if complete is None and set(found.values()) != {_UNFINISHED}:
            raise CheckpointError(
                f"No checkpoint in {self._folder} is as it was written ({which}). Copy that folder again if it is a copy, or "
                "delete it: the run then starts again."
            )
        then = "starts again" if complete is None else f"continues from the checkpoint of step {complete:,}"
        self._note(f"Damaged or unfinished checkpoints in {self._folder} are not used ({which}): the run {then}.")
        return complete, list(found)

    def _damage(self, step: int) -> str:
        """Returns a phrase on what has changed in a checkpoint since it was written; empty if nothing has."""
        folder = self._folder / str(step)
        try:
            if (folder / DIGESTS).exists():
                return find_damage(folder)
        except OSError as error:
            # A file that the system refuses to read for now may be whole.
            if remedy(error):
                raise CheckpointError(f"{folder} cannot be read ({_reason(error)}). {remedy(error)}") from error
            return f"it cannot be read: {_reason(error)}"
        with contextlib.suppress(Exception):  # See `_writes`; what cannot be read is reported by `restore`.
            metadata = self._orbax.checkpointables_metadata(step).custom_metadata
            # Earlier versions wrote no digests, and did not say so.
            return _UNFINISHED if metadata and DIGESTS in metadata else ""
        return ""

    @property
    def latest(self) -> int | None:
        """Returns the number of finished steps at the latest complete checkpoint; None if there is no checkpoint.

        Raises like `wait`.
        """
        self.wait()
        return self._complete

    def save(self, state: TrainState, step: int, online: PyTree = None) -> None:
        """Starts to write the state after `step` steps, and the state of an online probe if there is one.

        The arrays may be changed or donated when this function returns.

        Raises:
          NotWrittenError: this checkpoint or the one before it cannot be written, e.g. if the disk is full; earlier
            checkpoints stay as they are.
        """
        self.wait()
        parts = {"state": state} | ({} if online is None else {"online": online})
        self.require_space(parts)
        with self._writes(step):
            # They are kept until the run has reached another checkpoint.
            while self._unusable:
                self._orbax.delete(self._unusable.pop())
            response = self._orbax.save_checkpointables_async(step, parts, force=True, custom_metadata={DIGESTS: True})
        self._writing = _Writing(step, self._thread.submit(self._finish, step, response))

    def require_space(self, parts: PyTree, saves: int = 1) -> None:
        """Raises NotWrittenError if the disk has no space for checkpoints of these arrays and for the results beside them.

        Args:
          parts: the arrays of a checkpoint.
          saves: number of checkpoints that will be written; a third one displaces the first when it is complete.
        """
        if not cluster.is_first():
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(parts)) + _CHECKPOINT_FILES
        needed = size * min(saves, max(1, _KEPT + 1 - len(self._orbax.checkpoints)))
        free = shutil.disk_usage(self._folder).free
        if free < needed + _RESERVE:
            raise NotWrittenError(
                f"The disk of {self._folder} has {free / 1e6:,.0f} MB left, and checkpoints need {needed / 1e6:,.0f} MB, with "
                f"{_RESERVE / 1e6:,.0f} MB besides for results; {self._kept}. Free some space and give the same command again."
            )

    @property
    def _kept(self) -> str:
        return "there is no earlier one" if self._complete is None else f"the last good one is step {self._complete:,}"

    def _finish(self, step: int, response: Any) -> None:
        response.result()
        if not cluster.is_first():
            return
        # The system still has these files in memory, and the next steps run beside this thread.
        write_digests(self._folder / str(step))

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          NotWrittenError: it could not be written; earlier checkpoints stay as they are.
        """
        if self._writing is None:
            return
        step, written = self._writing
        self._writing = None
        with self._writes(step):
            written.result()
        self._complete = step

    @contextlib.contextmanager
    def _writes(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and tensorstore raise many kinds of errors; here they all have the same meaning.
            self._failed = True
            advice = remedy(error)
            raise NotWrittenError(
                f"The checkpoint of step {step:,} could not be written to {self._folder} ({_reason(error)}); {self._kept}."
                + (f" {advice}" if advice else "")
            ) from error

    def restore(self, like: TrainState) -> TrainState:
        """Returns the latest state, with the shardings of `like`.

        Raises:
          CheckpointError: the checkpoint has arrays of other names or shapes than `like`, or cannot be read.
        """
        with self._reading():
            stored = self._stored("state")
        # A damaged checkpoint has no shapes to compare; loading it below raises an error that names the cause.
        difference = stored and _difference(stored, _shapes(like))
        if difference:
            raise CheckpointError(
                f"The checkpoint of step {self.latest:,} in {self._folder} does not fit this run: {difference}. "
                "It was written with other settings; use another folder, or the settings it was written with."
            )
        with self._reading():
            return self._load("state", like)

    def restore_online(self, like: PyTree) -> PyTree:
        """Returns the latest state of an online probe, with the shardings of `like`; `like` if no state of its shapes exists.

        Raises:
          CheckpointError: the checkpoint cannot be read.
        """
        with self._reading():
            stored = self._stored("online")
            # A probe does not affect training: a probe that does not fit starts again and does not stop the run.
            return like if stored is not None and stored != _shapes(like) else self._load("online", like)

    def _stored(self, name: str) -> dict[str, tuple[int, ...]] | None:
        """Returns the shapes of a part of the latest checkpoint; None if orbax finds no shapes in a damaged part."""
        parts = self._orbax.checkpointables_metadata(self.latest).metadata
        if name in parts and parts[name] is None:
            return None
        return _shapes(parts.get(name, {}))

    def _load(self, name: str, like: PyTree) -> PyTree:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._orbax.load_checkpointables(self.latest, {name: abstract})[name]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            step = self.latest
            # Deleting helps if the files are damaged, but not if the system refuses to read them.
            advice = remedy(error) or f"If its files are damaged, delete {self._folder / str(step)}: {self._without(step)}."
            raise CheckpointError(
                f"The checkpoint of step {step:,} in {self._folder} cannot be read ({_reason(error)}). {advice}"
            ) from error

    def _without(self, step: int) -> str:
        earlier = [each.step for each in self._orbax.checkpoints if each.step != step]
        return f"the run then continues from step {max(earlier):,}" if earlier else "the run then starts again"

    def close(self) -> None:
        """Waits until the last checkpoint is complete. Raises like `wait`."""
        try:
            self.wait()
        finally:
            # After a failed write orbax raises the same error again, which would replace the error message above.
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._orbax.close()
            self._thread.shutdown()
            _ABSL.removeFilter(_not_from_orbax)


class _Writing(NamedTuple):
    """A checkpoint that is being written."""

    step: int
    written: Future[None]


_ABSL = logging.getLogger("absl")
_UNFINISHED = f"{DIGESTS} is missing"
# Number of checkpoints that are kept.
_KEPT = 2
# Bytes of a checkpoint besides its arrays.
_CHECKPOINT_FILES = 1 << 20
# Bytes that checkpoints leave for metrics, results and the report.
_RESERVE = 32 << 20


def _not_from_orbax(record: logging.LogRecord) -> bool:
    """Returns False for messages of orbax, which logs every save, and logs a failure a dozen times with its traceback."""
    return "/orbax/" not in record.pathname


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array of a tree by its path. Orbax's own trees have keys in place of fields."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def _difference(stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    """Returns a text about the first array that differs; empty if all arrays are equal in shape."""
    name = next((name for name in expected | stored if stored.get(name) != expected.get(name)), None)
    if name is None:
        return ""
    there, here = (f"shape {list(shapes[name])}" if name in shapes else "no such array" for shapes in (stored, expected))
    return f"{name} has {there} in the file and {here} in the run"


def _reason(error: BaseException) -> str:
    """Returns the first cause in one line. Of a long text the end is kept: the message of the operating system."""
    first = causes(error)[-1]
    text = " ".join(str(first).split())
    return f"{type(first).__name__}: {text if len(text) <= 160 else '... ' + text[-150:]}"
