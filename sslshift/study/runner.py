"""Runs a study: trains and judges each run, measures the shifts, and keeps everything in folders."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sslshift.models import ENCODER, load_encoder, save_encoder
from sslshift.study.card import encoder_card
from sslshift.study.floors import judge_pixels, judge_untrained
from sslshift.study.judged import Judged, judge, slug
from sslshift.study.leaks import search_leaks
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress, Work
from sslshift.study.records import remembered
from sslshift.study.results import Results
from sslshift.study.shifts import measure_shifts
from sslshift.training.broken import read_broken
from sslshift.training.loop import BROKEN, train
from sslshift.training.metrics import loss_trend
from sslshift.transfer.features import NetworkEncoder, encoder_of

__all__ = ["Results", "run_study"]


def run_study(opened: Opened, progress: Progress) -> Results:
    """Floors, shifts, then every run; what a folder already holds is read, not computed."""
    out = Path(opened.study.out)
    leaks = search_leaks(opened, out, progress)
    pixels = judge_pixels(opened, progress)
    floors = {}
    for seed in range(opened.study.seeds):
        for learner in opened.learners:
            floors[*learner.key, seed] = judge_untrained(opened, learner, seed, progress)
    shifts = measure_shifts(opened, out, progress)
    finished = []
    for number, run in enumerate(opened.runs, 1):
        what = describe_run(opened, run)
        with progress.run(what, number, len(opened.runs), opened.budget.steps(opened.study.batch_size)) as work:
            finished.append((run, _run(opened, run, shifts[run.source], work)))
        progress.say(what, finished[-1][1].scores[opened.task.name])
    return Results(opened, tuple(finished), floors, pixels, shifts, leaks)


def describe_run(opened: Opened, run: Run) -> str:
    """A run in words, with no more of them than tell it from others of its study."""
    learner = f"{opened.learner(run)}: " if len(opened.learners) > 1 else ""
    return f"{learner}{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.study.draws else "")


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


def _run(opened: Opened, run: Run, shift: dict, work: Work) -> Judged:
    folder = run_folder(opened, run)
    trained = remembered(folder, run_record(opened, run), lambda: _train(opened, run, shift, folder, work.on_step))
    how = (opened.tasks, opened.evaluations, opened.study.features)

    def encoder() -> NetworkEncoder:
        return NetworkEncoder(load_encoder(folder / ENCODER))

    return judge(encoder, *how, folder, trained=trained, on_progress=work.on_progress)


def _train(opened: Opened, run: Run, shift: dict, folder: Path, on_step: Callable) -> dict:
    candidate, training = opened.candidate(run), opened.learner(run).training
    reader = opened.reader(candidate.mixture, run.seed, run.draw)
    state = train(training, reader, run.seed, folder, on_step, online=opened.online)
    first, last = loss_trend(folder / "metrics.jsonl")
    broken = len(read_broken(folder / BROKEN))
    trained = {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": candidate.mixture.unique - broken}
    card = encoder_card(opened, candidate, run, shift, trained)
    save_encoder(encoder_of(training.method, state.variables, opened.canvas, card), folder / ENCODER)
    return trained
