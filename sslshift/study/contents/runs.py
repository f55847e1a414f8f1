"""Tables of runs: each kind on the first task, on all tasks, and every single run."""

from collections import Counter

from sslshift.reporting import Table
from sslshift.study.contents.text import called, learner_table, percent
from sslshift.study.intervals import two_digits
from sslshift.study.results import Results
from sslshift.study.summary import Row, evaluations, rows
from sslshift.transfer.metrics import METRICS


def main_table(results: Results) -> Table:
    """Every kind of run and floor on the first task."""
    task = results.opened.task.name
    judged_by = evaluations(results, task)
    lines = []
    for row in rows(results):
        scores = row.scores[task]
        unknown = "" if scores or row.kind.unique is None else "missing"
        cells = [percent(scores[name]) if name in scores else unknown for name in judged_by]
        gain = row.gains.get(task)
        verdict = gain.verdict if gain else ""
        lines.append([*_about(row), *_numbers(row), *cells, percent(gain, signed=True) if row.kind.unique else "", verdict])
    compared = Counter(
        row.kind.learner for row in rows(results) if row.gains.get(task) and row.gains[task].half == row.gains[task].half
    )
    counts = " and ".join(dict.fromkeys(map(str, compared.values())))
    verdicts = f"is corrected for the {counts} comparisons of its method (Holm)" if counts else "needs two seeds at least"
    note = (
        f"Test {METRICS[results.opened.task.metric].text} on {task}; ± is half a 95% interval over test images and seeds (of "
        f"one seed: over test images alone). The verdict on the gain over the untrained encoder {verdicts}."
    )
    head = [
        "source",
        "N",
        "D",
        "E",
        "shift index",
        *(f"{called(name)} %" for name in judged_by),
        "gain over untrained",
        "verdict",
    ]
    return learner_table(results, "kinds", "All kinds of runs", head, lines, note)


def _about(row: Row) -> list[str]:
    learner = " on ".join(row.kind.learner or ())
    unfinished = f" ({row.finished} of {row.planned} runs)" if row.finished < row.planned else ""
    return [learner, row.kind.source + unfinished]


def _numbers(row: Row) -> list[str]:
    if row.unique is None:
        return ["", "", "", ""]
    epochs = f"{row.epochs:,.0f}" if row.epochs >= 100 else f"{row.epochs:.3g}"
    return [f"{row.unique:,}", f"{row.diversity:.3g}", epochs, "{} [{}, {}]".format(*map(two_digits, row.shift))]


def task_table(results: Results) -> Table:
    """Every kind of run on every task."""
    tasks = results.opened.tasks
    lines = []
    for row in rows(results):
        cells = []
        for task in tasks:
            gain = row.gains.get(task.name)
            text = f" ({percent(gain, signed=True)}: {gain.verdict})" if gain else ""
            score = row.scores[task.name].get("linear")
            unknown = "" if row.finished == row.planned else "missing"
            cells.append(percent(score) + text if score else unknown)
        lines.append([*_about(row), "" if row.unique is None else f"{row.unique:,}", *cells])
    head = ["source", "N", *(f"{task.name}: {METRICS[task.metric].text} %" for task in tasks)]
    note = "Linear probe, and its gain over the untrained encoder; verdicts corrected for each method and task (Holm)."
    return learner_table(results, "tasks", "Every source on every task", head, lines, note)


def run_table(results: Results) -> Table:
    """Every run of the grid: its score, what it took, or why there is none."""
    task = results.opened.task.name
    lines = []
    found = dict(results.runs)
    failed = dict(results.failed)
    for run in results.opened.runs:
        place = [f"{run.method} on {run.encoder}", run.source, f"{run.unique:,}", str(run.seed), str(run.draw)]
        if run in found:
            judged = found[run]
            seconds = judged.trained.get("seconds")
            took = "n/a" if seconds is None else f"{seconds:,.1f}"
            lines.append([*place, f"{judged.scores[task]['linear'] * 100:.2f}", took, "finished"])
        else:
            state = f"failed: {failed[run]}" if run in failed else "missing"
            lines.append([*place, "missing", "n/a", state])
    head = ["source", "N", "seed", "draw", "linear %", "training, seconds", "state"]
    note = "Seconds are those of training on the clock; of a run that was stopped and went on, since it went on."
    return learner_table(results, "runs", "Every run", head, lines, note)
