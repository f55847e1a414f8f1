"""What a study has found so far."""

import dataclasses
import itertools

from sslshift.study.judged import Judged
from sslshift.study.opened import Opened, Run


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a study found, also of one that is not finished.

    Attributes:
      opened: the study.
      runs: finished runs in the order of the grid.
      floors: untrained encoders by method, encoder and seed; each finished run's is among them.
      pixels: the floor of raw pixels.
      task_shifts: by task and candidate, see `shifts.measure_task_shifts`.
      leaks: by source, see `leaks.search_leaks`.
      failed: runs that raised an error, each with the error in one sentence.
      missing: runs that are neither finished nor failed.
    """

    opened: Opened
    runs: tuple[tuple[Run, Judged], ...]
    floors: dict[tuple[str, str, int], Judged]
    pixels: Judged
    task_shifts: dict[str, dict[str, dict]]
    leaks: dict[str, dict]
    failed: tuple[tuple[Run, str], ...] = ()
    missing: tuple[Run, ...] = ()

    @property
    def shifts(self) -> dict[str, dict]:
        """The shifts from the first task, by candidate."""
        return self.task_shifts[self.opened.task.name]

    def untrained_of(self, run: Run) -> Judged:
        """A run's encoder before it was trained: the same architecture with the same seed's initial weights."""
        return self.floors[run.method, run.encoder, run.seed]

    @property
    def untrained(self) -> dict[tuple[str, str], tuple[Judged, ...]]:
        """Untrained encoders by method and encoder, in the order of their seeds from 0 on, as far as they are known."""
        found = {}
        for learner in self.opened.learners:
            seeds = itertools.takewhile(lambda seed, key=learner.key: (*key, seed) in self.floors, itertools.count())
            found[learner.key] = tuple(self.floors[*learner.key, seed] for seed in seeds)
        return found
