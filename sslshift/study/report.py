"""What a person gets: a table on the console, `results.csv`, the figure, and one self-contained page."""

import base64
import dataclasses
import html
import io
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslshift.data.decode import to_image
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.study.candidates import sample_plan
from sslshift.study.figure import as_svg, figure
from sslshift.study.intervals import Interval, two_digits
from sslshift.study.leaks import told
from sslshift.study.opened import Opened
from sslshift.study.records import write_atomically
from sslshift.study.runner import Results
from sslshift.study.shifts import REFERENCE
from sslshift.study.summary import Row, findings, rows, shift_order
from sslshift.study.tables import results_csv, scores_csv
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.tasks import Task

# How tables call an evaluation; others by their own name, with spaces.
_CALLED = {
    "knn": "kNN",
    "linear": "linear",
    "sgd": "SGD probe",
    "finetune": "fine-tuned",
    "finetune_frozen_bn": "fine-tuned, BN frozen",
}


def called(evaluation: str) -> str:
    return _CALLED.get(evaluation) or evaluation.replace("few_shot", "few-shot").replace("_", " ")


def write_results(results: Results) -> list[Path]:
    """Writes results.csv, scores.csv, the figure and the report into the study's folder, and returns their paths."""
    out = Path(results.opened.study.out)
    drawing = figure(results)
    drawing.savefig(out / "accuracy_vs_diversity.png", dpi=150)
    write_atomically(out / "results.csv", results_csv(results))
    write_atomically(out / "scores.csv", scores_csv(results))
    write_atomically(out / "report.html", report(results, as_svg(drawing)))
    return [out / name for name in ("results.csv", "scores.csv", "accuracy_vs_diversity.png", "report.html")]


def print_table(results: Results, console: Console) -> None:
    _print(_main_table(results), _caption(results), console)
    if len(results.opened.tasks) > 1:
        _print(_task_table(results), _TASKS, console)
    for sentence in findings(results):
        console.print(f"- {sentence}", highlight=False, soft_wrap=not console.is_terminal, markup=False)


def _print(lines: Sequence[Sequence[str]], title: str, console: Console) -> None:
    table = Table(*lines[0], title=Text(title), title_justify="left", title_style="", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify = "right"
        column.no_wrap = True
    for cells in lines[1:]:
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _main_table(results: Results) -> list[list[str]]:
    task, table = results.opened.task.name, rows(results)
    # Fine-tuning is not for raw pixels: a floor may lack what the others have.
    evaluations = list(table[0].scores[task])
    lines = [["source", "N", "D", "E", "shift index", *(f"{called(name)} %" for name in evaluations), "gain over untrained"]]
    for row in table:
        scores = [percent(row.scores[task][name]) if name in row.scores[task] else "" for name in evaluations]
        lines.append([row.source, *_numbers(row), *scores, percent(row.gains[task], signed=True) if row.gains else ""])
    return _with_learners(results, lines)


def _with_learners(results: Results, lines: list[list[str]]) -> list[list[str]]:
    """A first column for method and encoder, where there are several."""
    if len(results.opened.learners) == 1:
        return lines
    names = ["method"] + [" on ".join(row.learner or ()) for row in rows(results)]
    return [[name, *line] for name, line in zip(names, lines, strict=True)]


def _numbers(row: Row) -> list[str]:
    if row.unique is None:
        return ["", "", "", ""]
    epochs = f"{row.epochs:,.0f}" if row.epochs >= 100 else f"{row.epochs:.3g}"
    return [f"{row.unique:,}", f"{row.diversity:.3g}", epochs, "{} [{}, {}]".format(*map(two_digits, row.shift))]


_TASKS = "Every source on every task: linear probe, and its gain over the untrained encoder."


def _task_table(results: Results) -> list[list[str]]:
    tasks = results.opened.tasks
    lines = [["source", "N", *(f"{task.name}: {METRICS[task.metric].text} %" for task in tasks)]]
    for row in rows(results):
        cells = []
        for task in tasks:
            gain = f" ({percent(row.gains[task.name], signed=True)}: {row.gains[task.name].verdict})" if row.gains else ""
            cells.append(percent(row.scores[task.name]["linear"]) + gain)
        lines.append([row.source, "" if row.unique is None else f"{row.unique:,}", *cells])
    return _with_learners(results, lines)


def percent(value: Interval, signed: bool = False) -> str:
    mean = f"{value.mean * 100:+.1f}" if signed else f"{value.mean * 100:.1f}"
    return mean if np.isnan(value.half) else f"{mean} ± {value.half * 100:.1f}"


def _caption(results: Results) -> str:
    opened = results.opened
    return (
        f"Test {METRICS[opened.task.metric].text} on {opened.task.name} after pretraining on each source at one budget of "
        f"C = {opened.budget.samples:,} samples ({opened.study.method}, {opened.study.encoder}); "
        + (
            f"mean and 95% interval over {opened.study.seeds} seeds"
            + (f", {opened.study.draws} draws of each subset" if opened.study.draws else "")
            + " and the test images."
            if opened.study.seeds > 1
            else "one seed: intervals are over the test images alone."
        )
    )


def report(results: Results, svg: str) -> str:
    """The page as HTML text; it loads nothing from anywhere."""
    opened = results.opened
    settings = dataclasses.asdict(opened.study)
    parts = {
        "caption": html.escape(_caption(results)),
        "findings": "".join(f"<li>{html.escape(sentence)}</li>" for sentence in findings(results)),
        "figure": svg,
        "table": _table(_main_table(results)),
        "tasks": f"<h2>All tasks</h2>\n<p>{_TASKS}</p>\n{_table(_task_table(results))}\n" if len(opened.tasks) > 1 else "",
        "mixtures": _mixtures(opened),
        "shifts": _shift_table(results),
        "leaks": _leaks(results),
        "samples": "".join(_sample_strip(opened, uri) for uri in opened.sources),
        "notes": "".join(f"<li>{html.escape(note)}</li>" for note in _notes(results)),
        "settings": _table([("flag", "value"), *((f"--{name}", str(value)) for name, value in settings.items())]),
    }
    return _PAGE.substitute(parts)


def _notes(results: Results) -> list[str]:
    opened = results.opened
    sampled = "draws of the subset, training seeds" if opened.study.draws else "seeds"
    notes = [
        f"Intervals count what {sampled} and test images contribute (Student's t and a bootstrap). A seed names the order, the "
        f"initial weights and the views{'' if opened.study.draws else ', and draws the subset'}. All rows share their test "
        "images: differences and gains are taken seed by seed on the same images, and are surer than two intervals side by "
        "side suggest.",
        *(_about_task(task) for task in opened.tasks),
        f"The shift index is a Frechet distance on features of {REFERENCE}: 0 is another sample of the downstream "
        "images, 1 is noise with their pixel values. Another encoder gives other numbers.",
        *_remarks(results),
    ]
    for uri, shift in results.shifts.items():
        if "why" in shift:
            notes.append(f"{uri}: no shift index. {shift['why']}")
        elif shift["sample_size"] < 2 * shift["dimensions"]:
            notes.append(
                f"{uri}: its shift index rests on {shift['sample_size']} images a side for {shift['dimensions']} features, too "
                "few for a steady value; do not compare it with one of another number of images."
            )
    for candidate in opened.candidates:
        kind = (candidate.name, candidate.unique)
        broken = max((judged.trained["broken"] for run, judged in results.runs if (run.source, run.unique) == kind), default=0)
        if broken:
            notes.append(
                f"{candidate.name}: up to {broken:,} of {candidate.unique:,} different images could not be read in a run; "
                "another one stood in for each, and N counts those that could. broken.csv in the run's folder lists them."
            )
    for uri, leaks in results.leaks.items():
        if "why" in leaks:
            notes.append(f"{uri}: not searched for test images, since {leaks['why']}.")
    for uri, source in opened.sources.items():
        if opened.withheld.get(uri):
            notes.append(f"{uri}: images that are also in the held-out test split are left out; {len(source):,} remain.")
        if source.refused:
            some = "; ".join(f"{path} ({reason})" for path, reason in source.refused[:5])
            notes.append(f"{uri}: {len(source.refused)} files are no readable images and not counted in N, e.g. {some}.")
    return notes


def _about_task(task: Task) -> str:
    return (
        f"{task.name}: probes learn from {len(task.train.indices):,} labelled images; hyperparameters are chosen on "
        f"{len(task.validation.indices):,} others; {METRICS[task.metric].text} of the {len(task.test.indices):,} test images "
        "is reported once. Encoders are finished and frozen (offline), unless it says fine-tuned."
    )


def _remarks(results: Results) -> list[str]:
    """What the tasks have to say, each once whatever the number of runs that said it."""
    everyone = [results.pixels, *results.floors.values(), *(judged for _, judged in results.runs)]
    said = [
        f"{task}: {note.rstrip('.')}."
        for judged in everyone
        for task, scores in judged.scores.items()
        for note in scores["notes"]
    ]
    counts = Counter(said)
    return [
        note if count == len(everyone) else f"{note} (so for {count} of {len(everyone)} encoders)"
        for note, count in counts.items()
    ]


def _mixtures(opened: Opened) -> str:
    """What each mixture shows, stage by stage; nothing if there is none."""
    lines = []
    for candidate in (each for each in opened.candidates if each.text):
        plan = sample_plan(candidate.mixture, opened.budget, opened.study.batch_size, opened.sources, seed=0, draw=0)
        for number, (stage, counts) in enumerate(zip(candidate.mixture.stages, plan.counts, strict=True), 1):
            for part, count in zip(stage.components, counts, strict=True):
                share = " to ".join(dict.fromkeys(f"{end:.0%}" for end in part.ends))
                epochs = f"{count / part.unique:.3g}"
                cost = f"{part.unique * opened.sources[part.source].cost_per_image:,.6g}"
                lines.append((candidate.name, str(number), part.source, f"{part.unique:,}", f"{count:,}", share, epochs, cost))
    if not lines:
        return ""
    head = ("mixture", "stage", "source", "N", "samples", "share", "E", "cost")
    return f"<h2>What the mixtures show</h2>\n{_table([head, *lines])}\n"


def _shift_table(results: Results) -> str:
    lines = [("source", "shift index", "95% interval", "distance", "floor (other half)", "ceiling (noise)", "images a side")]
    for uri, shift in sorted(results.shifts.items(), key=lambda item: shift_order(item[1])):
        values = (f"{shift[name]:.3g}" for name in ("distance", "floor", "ceiling"))
        span = f"{two_digits(shift['low'])} to {two_digits(shift['high'])}"
        lines.append((uri, two_digits(shift["value"]), span, *values, f"{shift['sample_size']:,.0f}"))
    return _table(lines)


def _table(lines) -> str:
    head, *body = ([html.escape(cell) for cell in line] for line in lines)
    top = "".join(f"<th>{cell}</th>" for cell in head)
    rest = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in body)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{rest}</tbody></table></div>'


def _leaks(results: Results, shown: int = 12) -> str:
    """A warning, and some of the pairs, for every source that holds test images; nothing if none does."""
    opened, parts = results.opened, []
    for uri, leaks in results.leaks.items():
        if not leaks.get("count"):
            continue
        pairs = leaks["pairs"][:shown]
        columns = [
            np.concatenate([source.read(np.array([pair[side]]), opened.canvas)[0] for side, source in sides], axis=0)
            for pair in pairs
            for sides in [((0, opened.sources[uri]), (1, opened.task.test[0]))]
        ]
        lines = [(str(first), str(second), f"{distance:.2g}", how) for first, second, distance, how, *_ in pairs]
        parts.append(
            f"<p>{html.escape(told(uri, leaks, opened))}. Above each test image stands the one of the source:</p>"
            + _picture(np.concatenate(columns, axis=1), "pairs of a source's image and a test image", opened.canvas.height)
            + _table([("in the source", "in the test source", "distance", "how"), *lines])
            + ("" if len(leaks["pairs"]) == len(pairs) else f"<p>All {len(leaks['pairs']):,} pairs are in leaks.csv.</p>")
        )
    return f"<h2>Test images among the pretraining images</h2>\n{''.join(parts)}\n" if parts else ""


def _sample_strip(opened: Opened, uri: str, count: int = 12) -> str:
    source = opened.sources[uri]
    count = min(count, len(source))
    indices = permute(np.arange(count), len(source), 0)
    images = source.read(readable(source, indices, opened.canvas), opened.canvas)
    name = f"{uri}: {len(source):,} images, licence: {source.licence}"
    return _picture(np.concatenate(list(images), axis=1), name, opened.canvas.height)


def _picture(pixels: np.ndarray, name: str, height: int) -> str:
    """A picture with its name below; small ones are enlarged: `height` of its pixels are at least 64 of the screen's."""
    picture, scale, out = to_image(pixels), max(1, 64 // height), io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(out, "PNG")
    data, name = base64.b64encode(out.getvalue()).decode(), html.escape(name)
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}"><figcaption>{name}</figcaption></figure>'


_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>sslshift: which data to pretrain on</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2230; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } svg, img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .7rem; border-bottom: 1px solid #d8dce4; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
th { background: #f3f5f9; }
figure { margin: .6rem 0; } figcaption { font-size: .85rem; color: #566; } li { margin: .25rem 0; }
</style>
</head>
<body>
<h1>Which data should the encoder be pretrained on?</h1>
<p>$caption</p>
<h2>What this study shows</h2>
<ul>$findings</ul>
<h2>Accuracy against diversity</h2>
$figure
<h2>All runs</h2>
$table
$tasks$mixtures<h2>How far each source is from the downstream images</h2>
$shifts
<h2>What the sources look like</h2>
$samples
$leaks<h2>How to read this</h2>
<ul>$notes</ul>
<details><summary>Settings</summary>$settings</details>
</body>
</html>
""")
