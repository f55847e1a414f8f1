"""Scalars of a run as TensorBoard events, beside the JSON lines that every run has (`journal.MetricsWriter`).

`clu.metric_writers` writes them where TensorFlow is installed, and tensorboardX (extra `tensorboard`) elsewhere. A resumed run
begins a new file with a mark that tells TensorBoard to drop later steps of earlier files.
"""

import importlib.util
import time
import warnings
from pathlib import Path
from typing import Protocol

from sslshift import cluster
from sslshift.training.journal import METRICS, MetricsWriter

# Name of the folder in a run's folder.
EVENTS = "tensorboard"

# Seconds between two writes to the file.
_FLUSH = 10


class ScalarWriter(Protocol):
    """The interface of everything that scalars are written to."""

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None: ...

    def close(self) -> None: ...


def require_tensorboard() -> None:
    """Raises ValueError if neither library that writes TensorBoard events is installed."""
    if not _has("tensorflow") and not _has("tensorboardX"):
        raise ValueError(
            "--tensorboard needs tensorboardX or TensorFlow, and neither is installed: pip install 'sslshift[tensorboard]'"
        )


def scalar_writer(folder: Path, keep_steps: int, *, tensorboard: bool) -> ScalarWriter:
    """Returns the only object to which a run writes scalars.

    Args:
      folder: folder of the run.
      keep_steps: number of steps at the checkpoint from which the run continues; what was written of later steps is dropped.
      tensorboard: whether TensorBoard events are written too.
    """
    lines = MetricsWriter(folder / METRICS, keep_steps=keep_steps)
    if not tensorboard or not cluster.is_first():
        return lines
    kind = _TensorFlowEvents if _has("tensorflow") else _Events
    return _Both(lines, kind(folder / EVENTS, keep_steps + 1))


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class _Both:
    def __init__(self, *writers: ScalarWriter):
        self._writers = writers

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class _Events:
    """Events by tensorboardX; TensorBoard drops what earlier files have from step `first` on."""

    def __init__(self, folder: Path, first: int):
        # Imported here, since only this option needs them.
        from tensorboardX import FileWriter
        from tensorboardX.proto import event_pb2, summary_pb2

        self._summary = summary_pb2.Summary
        # Names have the second alone: a run that continues within one would overwrite the file of the earlier call.
        self._file = FileWriter(str(folder), flush_secs=_FLUSH, filename_suffix=f".{time.time_ns()}")
        restarted = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.add_event(event_pb2.Event(session_log=restarted), step=first)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        # One event for all scalars of a step takes a quarter of the time of one event for each.
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._file.add_summary(self._summary(value=values), step)

    def close(self) -> None:
        self._file.close()


class _TensorFlowEvents:
    """Events by `clu.metric_writers`, which needs TensorFlow."""

    def __init__(self, folder: Path, first: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
            from clu.metric_writers import SummaryWriter
        # Otherwise TensorFlow would take the memory of the accelerators.
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
        # The interface of TensorFlow 2 cannot write the mark of a restart.
        v1 = tf.compat.v1
        with v1.Graph().as_default(), v1.summary.FileWriter(str(folder)) as marks:
            marks.add_session_log(v1.SessionLog(status=v1.SessionLog.START), first)
        self._writer = SummaryWriter(str(folder))

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        self._writer.write_scalars(step, scalars)

    def close(self) -> None:
        self._writer.flush()
        self._writer.close()
