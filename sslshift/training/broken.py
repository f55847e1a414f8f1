"""What a run could not read: kept beside its checkpoints, counted out of N, and too much of it ends the run."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

from sslshift.data.pipeline import Broken


class BrokenDataError(RuntimeError):
    """More images than allowed could not be read."""


@dataclasses.dataclass
class BrokenImages:
    """The images that a run found broken, over all its calls.

    Args:
      file: CSV file that lists them, written with each new one; an earlier call's is read.
      unique: N of the run's mixture.
      limit: share of N that may be broken.
    """

    file: Path
    unique: int
    limit: float

    def __post_init__(self):
        self._found = {(one.source, one.index): one for one in read_broken(self.file)}

    def add(self, broken: Iterable[Broken]) -> None:
        """Counts images; those known already count once.

        Raises:
          BrokenDataError: they are more than the limit allows.
        """
        new = {(one.source, one.index): one for one in broken if (one.source, one.index) not in self._found}
        if not new:
            return
        self._found |= new
        part = self.file.with_name(self.file.name + ".part")
        with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace") as out:
            csv.writer(out, lineterminator="\n").writerows([Broken._fields, *self._found.values()])
        part.replace(self.file)
        if len(self._found) > self.limit * self.unique:
            raise BrokenDataError(
                f"{len(self._found):,} of {self.unique:,} different images ({len(self._found) / self.unique:.1%}) could not be "
                f"read, more than the {self.limit:.1%} that max_broken allows; they are listed in {self.file}, e.g. "
                f"{next(iter(self._found.values())).reason}"
            )


def read_broken(file: Path) -> list[Broken]:
    """What a run listed; empty if it could read everything."""
    if not file.exists():
        return []
    with open(file, newline="", encoding="utf-8") as lines:
        return [Broken(row["source"], int(row["index"]), row["reason"]) for row in csv.DictReader(lines)]
