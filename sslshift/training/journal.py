"""Files of a run besides its checkpoints: metrics, a list of the images that could not be read, and a lock."""

import contextlib
import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from sslshift import cluster, storage
from sslshift.data.pipeline import Broken

# Names of the files in a run's folder.
METRICS = "metrics.jsonl"
BROKEN = "broken.csv"
_LOCK = ".training"


@contextlib.contextmanager
def own_run_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of a run, and keeps other processes from training in it while the block runs.

    Raises:
      RuntimeError: another process trains in the folder.
      ValueError: the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(storage.lock(folder / _LOCK, remove=True))
        except storage.LockedError as error:
            raise RuntimeError(
                f"{folder} is in use by {error.holder}, which trains there: two processes cannot write to the folder of one "
                "run. Wait until it is done, or name another folder."
            ) from error
        yield


class MetricsWriter:
    """Appends `{"step": ..., name: value, ...}` lines to a file; the only writer of metrics.

    A resumed run drops the lines that were written after its checkpoint, so its file has the same lines as without the
    interruption.
    """

    def __init__(self, path: Path, *, keep_steps: int):
        kept = [line for line in read_metrics(path) if line["step"] <= keep_steps]
        storage.write(path, "".join(json.dumps(line) + "\n" for line in kept))
        # Each line is written at once, so that a killed run loses at most the last line.
        self._file = path.open("a", buffering=1) if cluster.is_first() else io.StringIO()

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")

    def close(self) -> None:
        self._file.close()


def loss_trend(path: Path) -> tuple[float, float]:
    """Returns the mean loss over the first 5% and over the last 5% of the steps in a metrics file, at least one step each."""
    # The line of a skipped step has no loss.
    losses = [line["loss"] for line in read_metrics(path) if "loss" in line]
    count = max(1, len(losses) // 20)
    return statistics.fmean(losses[:count]), statistics.fmean(losses[-count:])


def read_metrics(path: Path) -> list[dict]:
    """Returns the lines of a metrics file, up to a line that is incomplete because the run was killed."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class BrokenDataError(RuntimeError):
    """More images could not be read than the limit allows."""


@dataclasses.dataclass
class BrokenImages:
    """Broken images that a run found, in this call and in earlier calls. A study subtracts their number from N.

    Args:
      file: CSV file that lists the images; each new image is written to it, and the list of an earlier call is read.
      unique: number of unique samples N of the run's mixture.
      limit: share of N that may be broken.
    """

    file: Path
    unique: int
    limit: float

    def __post_init__(self):
        self._found = {(one.source, one.index): one for one in read_broken(self.file)}

    def add(self, broken: Iterable[Broken]) -> None:
        """Adds images to the list; an image that is already listed is not added again.

        Raises:
          BrokenDataError: more images are broken than the limit allows.
        """
        new = {(one.source, one.index): one for one in broken if (one.source, one.index) not in self._found}
        if not new:
            return
        self._found |= new
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([Broken._fields, *self._found.values()])
        # File names may contain bytes that are not valid text.
        # Written before the limit is checked, since the error refers to this list.
        storage.write(self.file, text.getvalue().encode("utf-8", "backslashreplace"))
        if len(self._found) > self.limit * self.unique:
            raise BrokenDataError(
                f"{len(self._found):,} of {self.unique:,} different images ({len(self._found) / self.unique:.1%}) could not be "
                f"read, more than the {self.limit:.1%} that max_broken allows; they are listed in {self.file}, e.g. "
                f"{next(iter(self._found.values())).reason}"
            )


def read_broken(file: Path) -> list[Broken]:
    """Returns the images that a run listed as broken; empty if every image could be read."""
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        return [Broken(row["source"], int(row["index"]), row["reason"]) for row in csv.DictReader(lines)]
