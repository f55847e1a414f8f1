"""Looks of a study's sources, the same in every figure."""

from typing import NamedTuple

from sslshift.reporting.figures import COLOURS, MARKERS, shortened
from sslshift.study.compared import shift_order
from sslshift.study.intervals import two_digits
from sslshift.study.results import Results


class Look(NamedTuple):
    """Colour, marker and label of a source."""

    colour: str
    marker: str
    label: str


def looks(results: Results, task: str) -> dict[str, Look]:
    """Returns the look of each candidate, the nearest to the study's first task first, with its shift index to this task."""
    names = sorted(results.shifts, key=lambda name: (shift_order(results.shifts[name]), name))
    return {
        name: Look(
            COLOURS[number % len(COLOURS)],
            MARKERS[number % len(MARKERS)],
            f"{shortened(name)} (shift {two_digits(results.task_shifts[task][name]['value'])})",
        )
        for number, name in enumerate(names)
    }
