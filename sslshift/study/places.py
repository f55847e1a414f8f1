"""Where a run is kept, what it depends on, and how it is called."""

import dataclasses
from pathlib import Path

from sslshift.study.judged import slug
from sslshift.study.opened import Opened, Run
from sslshift.study.records import FAILED, read_json


def run_folder(opened: Opened, run: Run) -> Path:
    name = f"{slug(run.source)}-{run.method}-{run.encoder}-n{run.unique}-d{run.draw}-s{run.seed}"
    return Path(opened.study.out) / "runs" / name


def run_record(opened: Opened, run: Run) -> dict:
    """Everything that a run's training depends on."""
    candidate = opened.candidate(run)
    own = {
        "run": dataclasses.asdict(run),
        "mixture": dataclasses.asdict(candidate.mixture),
        "sources": opened.facts(candidate),
    }
    return opened.learner(run).record | own


def describe_run(opened: Opened, run: Run) -> str:
    """A run in words, with no more of them than tell it from others of its study."""
    learner = f"{opened.learner(run)}: " if len(opened.learners) > 1 else ""
    return f"{learner}{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.study.draws else "")


def failure_of(opened: Opened, run: Run) -> str | None:
    """Why a run failed when it was last tried, None if it did not."""
    path = run_folder(opened, run) / FAILED
    if not path.exists():
        return None
    failure = read_json(path)
    return f"{failure['error']}: {failure['message']}"
