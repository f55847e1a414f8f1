"""Runs a study: trains and judges each run, measures the shifts, and keeps everything in folders."""

import dataclasses
import functools
from pathlib import Path

from sslshift.data.mixture import Mixture
from sslshift.study.leaks import search_leaks
from sslshift.study.opened import Opened, Run
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.study.shifts import measure_shifts
from sslshift.training.broken import read_broken
from sslshift.training.loop import BROKEN, initial_state, train
from sslshift.training.metrics import loss_trend
from sslshift.transfer.features import network_encoder, pixel_encoder
from sslshift.transfer.protocol import evaluate


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study found: `runs` in the order of the grid, `untrained` by seed, `shifts` by candidate, `leaks` by source."""

    opened: Opened
    runs: tuple[tuple[Run, dict], ...]
    untrained: tuple[dict, ...]
    pixels: dict
    shifts: dict[str, dict]
    leaks: dict[str, dict]


def run_study(opened: Opened, progress: Progress) -> Results:
    """Floors, shifts, then every run; what a folder already holds is read, not computed."""
    out = Path(opened.study.out)
    record = opened.record
    leaks = search_leaks(opened, out, progress)
    pixels = remembered(out / "floors" / "pixels", record, lambda: evaluate(pixel_encoder, opened.task))
    progress.say("floor: raw pixels", pixels)
    untrained = tuple(
        remembered(out / "floors" / f"untrained-s{seed}", record | {"seed": seed}, lambda s=seed: _judge_untrained(opened, s))
        for seed in range(opened.study.seeds)
    )
    for seed, result in enumerate(untrained):
        progress.say(f"floor: untrained encoder, seed {seed}", result)
    shifts = measure_shifts(opened, out, progress)
    finished = []
    for number, run in enumerate(opened.runs, 1):
        candidate = opened.candidate(run)
        folder = out / "runs" / f"{opened.slug(run.source)}-n{run.unique}-d{run.draw}-s{run.seed}"
        own = {
            "run": dataclasses.asdict(run),
            "mixture": dataclasses.asdict(candidate.mixture),
            "sources": opened.facts(candidate),
        }
        what = f"{run.source} N={run.unique:,} seed {run.seed}" + (f" draw {run.draw}" if opened.study.draws else "")
        with progress.run(what, number, len(opened.runs), opened.budget.steps(opened.study.batch_size)) as on_step:
            judge = functools.partial(_train_and_judge, opened, candidate.mixture, run, folder, on_step)
            finished.append((run, remembered(folder, record | own, judge)))
        progress.say(what, finished[-1][1])
    return Results(opened, tuple(finished), untrained, pixels, shifts, leaks)


def _judge_untrained(opened: Opened, seed: int) -> dict:
    state = initial_state(opened.training, opened.reader(opened.equal_shares, seed, seed), seed)
    return evaluate(network_encoder(opened.training.method, state.variables), opened.task)


def _train_and_judge(opened: Opened, mixture: Mixture, run: Run, folder: Path, on_step) -> dict:
    state = train(opened.training, opened.reader(mixture, run.seed, run.draw), run.seed, folder, on_step)
    first, last = loss_trend(folder / "metrics.jsonl")
    scores = evaluate(network_encoder(opened.training.method, state.variables), opened.task)
    broken = len(read_broken(folder / BROKEN))
    return scores | {"loss_first": first, "loss_last": last, "broken": broken, "unique_read": mixture.unique - broken}
