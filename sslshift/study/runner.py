"""Runs a study: trains and judges each run, measures the shifts, and keeps everything in folders."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from sslshift.models import ENCODER, load_encoder, save_encoder
from sslshift.study.card import encoder_card
from sslshift.study.judged import Judged, judge, slug
from sslshift.study.leaks import search_leaks
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress, Work
from sslshift.study.records import remembered
from sslshift.study.shifts import measure_shifts
from sslshift.training.broken import read_broken
from sslshift.training.loop import BROKEN, initial_state, train
from sslshift.training.metrics import loss_trend
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, pixel_encoder


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """What a study found: `runs` in the order of the grid, `untrained` by seed, `shifts` by candidate, `leaks` by source."""

    opened: Opened
    runs: tuple[tuple[Run, Judged], ...]
    untrained: tuple[Judged, ...]
    pixels: Judged
    shifts: dict[str, dict]
    leaks: dict[str, dict]


def run_study(opened: Opened, progress: Progress) -> Results:
    """Floors, shifts, then every run; what a folder already holds is read, not computed."""
    out = Path(opened.study.out)
    record = opened.record
    leaks = search_leaks(opened, out, progress)
    pixels = _floor(opened, lambda: pixel_encoder, out / "floors" / "pixels", "floor: raw pixels", progress)
    untrained = []
    for seed in range(opened.study.seeds):
        folder = out / "floors" / f"untrained-s{seed}"
        remembered(folder, record | {"seed": seed}, dict)
        what = f"floor: untrained encoder, seed {seed}"
        untrained.append(_floor(opened, functools.partial(_untrained, opened, seed), folder, what, progress))
    shifts = measure_shifts(opened, out, progress)
    finished = []
    for number, run in enumerate(opened.runs, 1):
        what = f"{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.study.draws else "")
        with progress.run(what, number, len(opened.runs), opened.budget.steps(opened.study.batch_size)) as work:
            finished.append((run, _run(opened, run, shifts[run.source], work)))
        progress.say(what, finished[-1][1].scores[opened.task.name])
    return Results(opened, tuple(finished), tuple(untrained), pixels, shifts, leaks)


def _floor(opened: Opened, encoder: Callable[[], Encoder], folder: Path, what: str, progress: Progress) -> Judged:
    with progress.judging(what) as work:
        judged = _judge(opened, encoder, folder, work, {})
    progress.say(what, judged.scores[opened.task.name])
    return judged


def _run(opened: Opened, run: Run, shift: dict, work: Work) -> Judged:
    candidate = opened.candidate(run)
    folder = Path(opened.study.out) / "runs" / f"{slug(run.source)}-n{run.unique}-d{run.draw}-s{run.seed}"
    own = {
        "run": dataclasses.asdict(run),
        "mixture": dataclasses.asdict(candidate.mixture),
        "sources": opened.facts(candidate),
    }
    trained = remembered(folder, opened.record | own, lambda: _train(opened, run, shift, folder, work.on_step))
    return _judge(opened, lambda: NetworkEncoder(load_encoder(folder / ENCODER)), folder, work, trained)


def _judge(opened: Opened, encoder: Callable[[], Encoder], folder: Path, work: Work, trained: dict) -> Judged:
    how = (opened.tasks, opened.evaluations, opened.study.features)
    return judge(encoder, *how, folder, trained=trained, on_progress=work.on_progress)


def _train(opened: Opened, run: Run, shift: dict, folder: Path, on_step: Callable) -> dict:
    candidate, method = opened.candidate(run), opened.training.method
    reader = opened.reader(candidate.mixture, run.seed, run.draw)
    state = train(opened.training, reader, run.seed, folder, on_step, online=opened.online)
    first, last = loss_trend(folder / "metrics.jsonl")
    broken = len(read_broken(folder / BROKEN))
    trained = {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": candidate.mixture.unique - broken}
    card = encoder_card(opened, candidate, run, shift, trained)
    save_encoder(encoder_of(method, state.variables, opened.canvas, card), folder / ENCODER)
    return trained


def _untrained(opened: Opened, seed: int) -> Encoder:
    state = initial_state(opened.training, opened.reader(opened.equal_shares, seed, seed), seed)
    return NetworkEncoder(encoder_of(opened.training.method, state.variables, opened.canvas))
