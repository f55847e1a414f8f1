"""Findings of the checks: a verdict, a figure, and what to do."""

import fnmatch
import math
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.command import remedy
from sslshift.reporting import Table

PASS = "pass"
SLOW = "slow"
FAILED = "failed"
_ADVICE = "what to do"


class Finding(NamedTuple):
    """Result of a check.

    Attributes:
      verdict: `pass`, `slow` or `failed`.
      figure: what was measured.
      advice: what to do; empty if there is nothing to do.
      seconds: duration of the check, compilation included.
      details: traceback of an error.
    """

    verdict: str
    figure: str
    advice: str = ""
    seconds: float = 0.0
    details: str = ""


# A check takes the folder in which it makes temporary files.
Check = Callable[[Path], Finding]


def chosen(checks: Mapping[str, Check], patterns: list[str]) -> dict[str, Check]:
    """Returns the checks whose names match a pattern; raises ValueError if a pattern matches none."""
    for pattern in patterns:
        if not fnmatch.filter(checks, pattern):
            raise ValueError(
                f"--only: expected names or patterns of checks such as train/*, got {pattern!r}; --help lists them."
            )
    return {name: check for name, check in checks.items() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)}


def examined(checks: Mapping[str, Check], folder: Path, threads: int = 1) -> Iterator[tuple[str, Finding]]:
    """Yields the name and the finding of each check, in order; an error fails its own check, and the others go on.

    Args:
      checks: checks by name.
      folder: folder for temporary files.
      threads: number of checks that run at the same time; those of speed run alone.
    """
    beside = {name: check for name, check in checks.items() if not name.startswith("speed/")}
    with ThreadPoolExecutor(threads) as pool:
        yield from zip(beside, pool.map(lambda check: _examined(check, folder), beside.values()), strict=True)
    yield from ((name, _examined(check, folder)) for name, check in checks.items() if name not in beside)


def _examined(check: Check, folder: Path) -> Finding:
    started = time.perf_counter()
    try:
        finding = check(folder)
    except Exception as error:
        finding = _failed(error)
    return finding._replace(seconds=time.perf_counter() - started)


def _failed(error: Exception) -> Finding:
    # Libraries raise errors of many lines; `details` has the whole text.
    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder="...")
    advice = remedy(error) or "Write the findings with --json=FILE, which includes the traceback, and report them."
    return Finding(FAILED, reason, advice, details="".join(traceback.format_exception(error)))


def agreement(found: np.ndarray, expected: np.ndarray, tolerance: float) -> Finding:
    """Returns whether values agree with those of NumPy in float64: the largest difference, relative to the largest value,
    is at most `tolerance`.

    Example:
      >>> agreement([1.0, 2.02], [1.0, 2.0], 0.1).figure
      'error 1e-02, allowed 1e-01'
    """
    found = np.asarray(found, np.float64)
    expected = np.asarray(expected, np.float64)
    if found.shape != expected.shape:
        raise ValueError(f"Expected values of shape {expected.shape} as from NumPy, got shape {found.shape}.")
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), np.finfo(np.float64).tiny))
    figure = f"error {error:.0e}, allowed {tolerance:.0e}"
    # A comparison with nan is false, so a result that is not finite fails.
    if math.isfinite(error) and error <= tolerance:
        return Finding(PASS, figure)
    return Finding(
        FAILED, figure, "Results on this machine are wrong: try another version of jax and its driver, and report this."
    )


def table_of(findings: Mapping[str, Finding]) -> Table:
    """Returns the table of all findings."""
    lines = [(name, each.verdict, each.figure, f"{each.seconds:.1f}", each.advice) for name, each in findings.items()]
    return Table("doctor", "", ("check", "verdict", "figure", "s", _ADVICE), lines, text_columns=3, more_text=(_ADVICE,))
