"""State of all runs of a study or of several, from the files in their folders alone. It can be read on any machine.

| file | what is read from it |
|---|---|
| `runs.json` of a study | the names of all runs, so that runs that wait are listed |
| `progress.json` of a run | state, steps, speed, host, and the time of the last sign of life |
| `failed.json` | the last error |
| `result.json`, `metrics.jsonl` | the state of a run of an earlier version, which has no `progress.json` |
| `hang.log` | a hang since the last sign of life |
| `.lock.holder` of a study | the command that used the folder last |

A study that runs is read while it writes, and a folder may come from elsewhere: a file that is missing, half-written, too
long or not what it should be is ignored. Nothing is written, nothing is executed, and no link inside the folder is followed.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.heartbeat import EVALUATING, FINISHED, PROGRESS, RUNS, STOPPED, TRAINED, TRAINING
from sslshift.reporting.table import Table
from sslshift.storage import FAILED, RECORD, RESULT

WAITING = "waiting"
STALLED = "stalled"
FAILURE = "failed"
# In the order of a list: first the runs that need somebody, then the active ones.
STATES = (FAILURE, STALLED, STOPPED, TRAINING, EVALUATING, WAITING, FINISHED)

_HEAD = ("state", "step", "of", "samples/s", "left", "host", "last sign", "remark")

_RUNS_FOLDER = "runs"
_METRICS = "metrics.jsonl"
_HANG = "hang.log"
_HOLDER = ".lock.holder"
# Longest files that are read; the package writes shorter ones. A list of runs has a line for each.
_MOST_BYTES = 1 << 16
_MOST_LIST_BYTES = 1 << 24
# Bytes at the end of `metrics.jsonl` that hold its last line.
_TAIL = 1 << 12
_LONGEST_TEXT = 200


class RunStatus(NamedTuple):
    """State of one run.

    Attributes:
      study: folder of the study.
      run: name of the run's folder.
      state: one of `STATES`.
      step, steps: finished and all training steps; None if no file says so.
      samples_per_second: speed of training; None unless the run trains.
      seconds_left: time until the training ends at this speed; None unless the run trains.
      host: machine that works on the run, or did last.
      age: seconds since the last sign of life; None without any.
      remark: error of the last attempt, or what an evaluation is busy with.
    """

    study: str
    run: str
    state: str
    step: int | None = None
    steps: int | None = None
    samples_per_second: float | None = None
    seconds_left: float | None = None
    host: str = ""
    age: float | None = None
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """Returns the values of the columns as text."""
        return (
            self.state,
            "" if self.step is None else f"{self.step:,}",
            "" if self.steps is None else f"{self.steps:,}",
            "" if self.samples_per_second is None else f"{self.samples_per_second:,.0f}",
            "" if self.seconds_left is None else brief(self.seconds_left),
            self.host,
            "" if self.age is None else f"{brief(self.age)} ago",
            self.remark,
        )


@dataclasses.dataclass(frozen=True)
class StudyStatus:
    """State of the runs of one study.

    Attributes:
      folder: folder of the study.
      holder: command that used the folder last; it may have ended.
      runs: state of every run.
    """

    folder: Path
    holder: str
    runs: tuple[RunStatus, ...]

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all remaining training ends at the speed of the runs that train now; None if none does."""
        active = [each for each in self.runs if each.state == TRAINING and each.seconds_left]
        # In steps, since all runs of a study have batches of one size.
        rate = sum((each.steps - each.step) / each.seconds_left for each in active)
        known = max((each.steps for each in self.runs if each.steps), default=0)
        waiting = [each for each in self.runs if each.state not in (FINISHED, EVALUATING)]
        remaining = sum(max(0, (each.steps or known) - (each.step or 0)) for each in waiting)
        return remaining / rate if rate else None

    def summary(self) -> str:
        """Returns one line: the number of runs in each state, and the time left."""
        counts = Counter(each.state for each in self.runs)
        parts = [f"{counts[state]:,} {state}" for state in reversed(STATES) if counts[state]]
        left = self.seconds_left
        time_left = "" if left is None else f"; about {brief(left)} of training left at this speed"
        holder = f"; last command: {self.holder}" if self.holder else ""
        return f"{self.folder}: {len(self.runs):,} runs: {', '.join(parts) or 'none'}{time_left}{holder}"


def brief(seconds: float) -> str:
    """Returns a time as text.

    Example:
      >>> [brief(each) for each in (4, 89, 600, 7_200, 400_000)]
      ['4 s', '89 s', '10 min', '2.0 h', '4.6 d']
    """
    for unit, size, digits in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)):
        if seconds < {"s": 90, "min": 5400, "h": 172_800}[unit]:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def read_status(folder: Path, stalled_after: float, now: float | None = None) -> list[StudyStatus]:
    """Returns the state of the study in a folder, or of all studies in its subfolders.

    Args:
      folder: folder of a study, or of several.
      stalled_after: seconds without a sign of life after which a run that is not finished counts as stalled.
      now: seconds since the epoch; None: now.

    Raises:
      ValueError: the folder does not exist, or holds no study.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; name the folder --out of a study, or a folder of several.")
    now = time.time() if now is None else now
    own = _study(folder, stalled_after, now)
    found = [own] if own else [_study(each, stalled_after, now) for each in sorted(_folders(folder))]
    studies = [each for each in found if each]
    if not studies:
        raise ValueError(f"{folder} holds no study, which has a folder {_RUNS_FOLDER}; name the folder --out of a study.")
    return studies


def plain_text(studies: Sequence[StudyStatus], most: int | None = None) -> list[str]:
    """Returns the lines of a table for a terminal or a file, in columns of equal width.

    Args:
      studies: the studies.
      most: largest number of runs; None: all. Those that need attention come first, and a last line counts the others.
    """
    table = _table(studies)
    shown = table.lines if most is None else table.lines[:most]
    widths = [max(map(len, column)) for column in zip(table.head, *shown, strict=True)]
    words = [table.is_text(column) for column in range(len(table.head))]
    lines = []
    for line in (table.head, *shown):
        cells = zip(line, widths, words, strict=True)
        lines.append("  ".join(cell.ljust(width) if word else cell.rjust(width) for cell, width, word in cells).rstrip())
    hidden = len(table.lines) - len(shown)
    return [*lines, f"and {hidden:,} more"] if hidden else lines


def status_page(studies: Sequence[StudyStatus], refresh: int) -> str:
    """Returns an HTML page with all runs, which a browser loads again every `refresh` seconds."""
    # Imported here, since a terminal needs no templates.
    from sslshift.reporting.page import render_page

    written = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    summaries = [*(each.summary() for each in studies), f"Written {written}."]
    title = f"Runs of {studies[0].folder.name}" if len(studies) == 1 else f"Runs of {len(studies)} studies"
    return render_page(__package__, "status.html", title=title, summaries=summaries, refresh=refresh, table=_table(studies))


def _table(studies: Sequence[StudyStatus]) -> Table:
    """Returns a table of all runs; with several studies, its first column is the study.

    The failed runs come first, then those without a sign of life, the active, the waiting, and the finished.
    """
    several = len(studies) > 1
    runs = sorted((run for each in studies for run in each.runs), key=lambda run: STATES.index(run.state))
    lines = [(*([each.study] if several else []), each.run, *each.cells()) for each in runs]
    head = (*(["study"] if several else []), "run", *_HEAD)
    return Table("runs", "Runs", head, lines, text_columns=3 if several else 2, more_text=("host", "last sign", "remark"))


def as_json(studies: Sequence[StudyStatus]) -> list[dict[str, Any]]:
    """Returns all values for programs."""
    return [
        {"folder": str(each.folder), "holder": each.holder, "seconds_left": each.seconds_left}
        | {"runs": [run._asdict() for run in each.runs]}
        for each in studies
    ]


def _study(folder: Path, stalled_after: float, now: float) -> StudyStatus | None:
    """Returns the state of a study; None if the folder is none."""
    planned = _read_object(folder / RUNS, _MOST_LIST_BYTES)
    names = planned.get("runs")
    names = [text(each) for each in names if isinstance(each, str)] if isinstance(names, list) else []
    there = {each.name: each for each in _folders(folder / _RUNS_FOLDER)}
    if not there and not names:
        return None
    steps = _whole(planned.get("steps"))
    # A study that was planned with more seeds before has folders that are not among its runs.
    found = {text(name): _run(folder.name, path, steps, stalled_after, now) for name, path in there.items()}
    waiting = {name: RunStatus(text(folder.name), name, WAITING, 0, steps) for name in names if name not in found}
    holder = text(_read(folder / _HOLDER, _MOST_BYTES)[0].decode(errors="replace"))
    # In the order of the study, so that a list changes little from one look to the next.
    order = {name: number for number, name in enumerate(names)}
    runs = sorted((waiting | found).items(), key=lambda each: (order.get(each[0], len(order)), each[0]))
    return StudyStatus(folder, holder, tuple(run for _, run in runs))


def _run(study: str, folder: Path, steps: int | None, stalled_after: float, now: float) -> RunStatus:
    content, modified = _read(folder / PROGRESS, _MOST_BYTES)
    life = _object(content)
    run = RunStatus(text(study), text(folder.name), WAITING, steps=_whole(life.get("steps")) or steps)
    failure, failed = _read(folder / FAILED, _MOST_BYTES)
    if not life:
        return _earlier(run, folder, failure, stalled_after, now)
    seconds = _number(life.get("time"))
    # Clocks of two machines differ: a sign of life from the future has just been given.
    age = None if seconds is None else max(0.0, now - seconds)
    run = run._replace(step=_whole(life.get("step")), host=text(life.get("host")), age=age)
    # A run that is tried again after a failure gives newer signs of life.
    if failure and failed >= modified:
        return run._replace(state=FAILURE, remark=_error(failure))
    state = life.get("state")
    if state in (FINISHED, STOPPED):
        return run._replace(state=state)
    if age is None or age > stalled_after or _read(folder / _HANG, 1)[1] > modified:
        return run._replace(state=STALLED, remark=f"was {text(state)}")
    if state == TRAINING:
        speed = _number(life.get("samples_per_second"))
        batch = _whole(life.get("batch_size"))
        left = (run.steps - run.step) * batch / speed if speed and batch and run.steps and run.step is not None else None
        return run._replace(state=TRAINING, samples_per_second=speed, seconds_left=None if left is None else max(0.0, left))
    part = f"{text(life.get('part'))} {text(life.get('done'))} of {text(life.get('total'))}" if "part" in life else ""
    return run._replace(state=EVALUATING if state in (TRAINED, EVALUATING) else STALLED, remark=part)


def _earlier(run: RunStatus, folder: Path, failure: bytes, stalled_after: float, now: float) -> RunStatus:
    """Returns the state of a run without a sign of life, which an earlier version trained, or which has only begun."""
    if failure:
        return run._replace(state=FAILURE, remark=_error(failure))
    if _read(folder / RESULT, 1)[1]:
        return run._replace(state=FINISHED, step=run.steps)
    tail, modified = _read(folder / _METRICS, _TAIL, from_end=True)
    if not modified:
        return run
    record = _read_object(folder / RECORD, _MOST_BYTES)
    budget = _whole(record.get("budget"))
    batch = _whole(record.get("batch_size"))
    # The last line may be half-written.
    lines = [_object(line).get("step") for line in tail.splitlines()[-2:]]
    step = max((each for each in map(_whole, lines) if each is not None), default=None)
    age = max(0.0, now - modified / 1e9)
    state = TRAINING if age <= stalled_after else STALLED
    return run._replace(state=state, step=step, steps=budget // batch if budget and batch else run.steps, age=age)


def _folders(folder: Path) -> Iterator[Path]:
    """Yields the subfolders of a folder that are no links."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield Path(entry.path)


def _read(path: Path, most: int, *, from_end: bool = False) -> tuple[bytes, int]:
    """Returns the first or last bytes of a plain file, and when it was modified, in ns; no bytes and 0 without such a file."""
    try:
        # Not following links; and not waiting for the other end of a pipe.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return b"", 0
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return b"", 0
        if from_end:
            os.lseek(file, max(0, found.st_size - most), os.SEEK_SET)
        return os.read(file, most), found.st_mtime_ns
    except OSError:
        return b"", 0
    finally:
        os.close(file)


def _read_object(path: Path, most: int) -> dict[str, Any]:
    return _object(_read(path, most)[0])


def _object(content: bytes) -> dict[str, Any]:
    """Returns a JSON object; an empty one for anything else."""
    try:
        value = json.loads(content)
    # Deeply nested brackets exhaust the stack of the parser; the text of a huge number is refused.
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53 else None


def _number(value: Any) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
    return float(value) if known and math.isfinite(value) else None


def _error(failure: bytes) -> str:
    found = _object(failure)
    return text(f"{found.get('error', 'an error')}: {found.get('message', '')}")


def text(value: Any) -> str:
    """Returns a value as one short line that a terminal shows as it is; None as an empty line."""
    words = "" if value is None else str(value)
    # Control characters could move the cursor or colour the screen.
    words = "".join(each if each.isprintable() else " " for each in words[: 4 * _LONGEST_TEXT])
    words = " ".join(words.split())
    return words if len(words) <= _LONGEST_TEXT else f"{words[: _LONGEST_TEXT - 4]} ..."
