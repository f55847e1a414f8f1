"""Values for the report's page, `report.html`, with the notes that explain its numbers.

The template `page.html` has the headings and the order of the parts.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sslshift.data.decode import to_image
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.data.sources.refusals import refused_sentence
from sslshift.reporting import Captioned, Picture, Table, environment, png_uri, render_page
from sslshift.shift import DISTANCES
from sslshift.study.analysis import Analysis
from sslshift.study.design import PRIMARY
from sslshift.study.evaluate import has_silent_branches
from sslshift.study.opened import Opened, Run, range_notes
from sslshift.study.report.decision import decision
from sslshift.study.report.sentences import answer, findings
from sslshift.study.report.tables import all_tables
from sslshift.study.results import describe_run
from sslshift.study.shifts import far_end_text, name_of_features, seen_by
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.tasks import Task

if TYPE_CHECKING:
    from sslshift.study.report.figures import DrawnFigure

# Number of images shown of a source, and of pairs of similar images.
_SHOWN = 12
# Number of pairs of similar images whose paths are listed.
_LISTED = 100
# Largest number of missing runs that the top of the page names.
_NAMED = 8


class Strip(NamedTuple):
    """Images of a source in a row."""

    pictures: list[Picture]
    label: str


class LeakSection(NamedTuple):
    """Section of the page on test images that one source contains or resembles."""

    sentence: str
    pairs: list[Captioned]
    table: Table


def page(
    analysis: Analysis, figures: "Sequence[DrawnFigure]", files: Mapping[str, str], timing: Table, command: str = ""
) -> str:
    """Returns the page.

    Args:
      analysis: analysis of the study's results, finished or not.
      figures: figures that `draw_all` returned.
      files: texts of CSV files that the page offers for download, by name.
      timing: seconds of the study by part, see `timing_table`; without rows, the page does not show it.
      command: command line that repeats the study; if empty, the page shows the call from Python.
    """
    opened = analysis.opened
    order = [number for number, figure in enumerate(figures) if figure.kind == "order_comparison"]
    return render_page(
        __package__,
        "page.html",
        caption=caption(analysis),
        unfinished=_unfinished(analysis),
        answer=[*decision(analysis), *answer(analysis)],
        figures=figures,
        order_figure=order[0] if order else None,
        several_tasks=len(opened.tasks) > 1,
        findings=findings(analysis),
        tables={table.name: table for table in all_tables(analysis)},
        samples=[_sample(opened, uri) for uri in opened.sources],
        leaks=leak_sections(analysis),
        notes=notes(analysis),
        files=files,
        timing=timing,
        command=command or f"from sslshift.study import Study, run\n\nrun({opened.design.declared!r})",
        environment=_environment(analysis),
        settings=_settings(opened),
    )


def _unfinished(analysis: Analysis) -> list[str]:
    """Returns sentences on failed and missing runs, which mark the report as incomplete; empty if the study is finished."""
    results = analysis.results
    missing = results.missing
    if not missing and not results.failed:
        return []
    lines = [f"This study is not finished: {len(results.runs)} of {len(analysis.opened.runs)} runs are complete."]
    lines += [f"Failed: {_run_name(analysis.opened, run)}: {why}" for run, why in results.failed]
    if missing:
        more = f"; and {len(missing) - _NAMED} more; see the table of every run" if len(missing) > _NAMED else ""
        lines.append(f"Missing: {'; '.join(_run_name(analysis.opened, run) for run in missing[:_NAMED])}{more}.")
    return [*lines, "Run the study's command again: it continues where it stopped."]


def _run_name(opened: Opened, run: Run) -> str:
    learner = f"{run.method} on {run.encoder}, " if len(opened.learners) > 1 else ""
    draw = f", draw {run.draw}" if opened.design.draws else ""
    return f"{learner}{run.source} N = {run.unique:,}, seed {run.seed}{draw}"


def _sample(opened: Opened, uri: str) -> Strip:
    """Returns some images of a source, in a seeded order."""
    source = opened.sources[uri]
    # The images are drawn at random, because the first images of a source often show one class or scene.
    indices = permute(np.arange(min(_SHOWN, len(source))), len(source), 0)
    images = source.read(readable(source, indices, opened.canvas), opened.canvas)
    text = f"{uri}: {len(source):,} images, licence: {source.licence}"
    return Strip([_picture(image) for image in images], text + (f"; {source.name}" if source.name != uri else ""))


def leak_sections(analysis: Analysis) -> list[LeakSection]:
    """Returns a section for each source that contains or resembles test images."""
    opened = analysis.opened
    test, indices = opened.task.test
    sections = []
    for number, (uri, leaks) in enumerate(analysis.results.leaks.items()):
        if not leaks.count:
            continue
        shown = leaks.pairs[:_SHOWN]
        source = opened.sources[uri]
        pairs = []
        for pair in shown:
            sides = ((source, pair.source_index), (test, pair.test_index))
            pictures = [_picture(side.read(np.array([index]), opened.canvas)[0]) for side, index in sides]
            pairs.append(Captioned(pictures, [pair.source_image, pair.test_image]))
        head = ("image of the source", "test image", "how", "distance")
        lines = [(each.source_image, each.test_image, each.how, f"{each.distance:.2g}") for each in leaks.pairs[:_LISTED]]
        rest = "" if len(leaks.pairs) <= _LISTED else f"All {len(leaks.pairs):,} pairs are in leaks.csv."
        count = f"{len(lines)} pair{'' if len(lines) == 1 else 's'} with their paths"
        table = Table(f"leaks-{number}", count, head, lines, rest, text_columns=3)
        sections.append(LeakSection(leaks.sentence(uri, len(indices)), pairs, table))
    return sections


def _picture(image: np.ndarray) -> Picture:
    return Picture(png_uri(to_image(image)))


def _environment(analysis: Analysis) -> Table:
    took = sum(each.trained.seconds or 0.0 for each in analysis.results.runs)
    lines = [
        ("device", environment.devices()),
        ("training of all finished runs", f"{took:,.0f} seconds of wall-clock time"),
        ("training seeds", ", ".join(map(str, range(analysis.opened.design.seeds)))),
        *((f"{name} version", each) for name, each in environment.versions().items()),
    ]
    return Table("environment", "Versions, seeds and device", ("name", "value"), lines, text_columns=2)


def _settings(opened: Opened) -> Table:
    # A flag that can be repeated, such as --mixture, has one row for each value.
    lines = [
        (f"--{name}", str(each))
        for name, value in dataclasses.asdict(opened.design.declared).items()
        for each in (value if isinstance(value, tuple) else (value,))
    ]
    return Table("settings", "Settings", ("flag", "value"), lines, text_columns=2)


def notes(analysis: Analysis) -> list[str]:
    """Returns explanations that a reader needs to understand the numbers, one or two sentences each."""
    opened = analysis.opened
    sampled_over = "draws of the subset, training seeds" if opened.design.draws > 1 else "seeds"
    included = f"{sampled_over} and test images" if opened.design.seeds > 1 else "the test images alone"
    return [
        f"Intervals include the variation of {included} (Student's t and a bootstrap). A seed determines the order of the "
        f"samples, the initial weights and the views{'' if opened.design.draws else ', and draws the subset'}. All rows share "
        "their test images: differences and gains are computed seed by seed on the same images, and are therefore more precise "
        "than two separate intervals suggest.",
        f"The primary hypothesis of this report is that {PRIMARY[opened.design.primary]} (--primary={opened.design.primary}). "
        "It has half of the 5% of false findings that the report allows; all other tests of all methods share the other half, "
        "and what a finding does not need passes on (Holm's method, weighted). Tests that are marked as exploratory compare "
        "what stands out afterwards; each of their tables is corrected alone. The interval beside a number is that of the "
        "number alone, with the variances between seeds pooled over its table.",
        *(_about_task(task) for task in opened.tasks),
        f"The shift index uses the {DISTANCES[opened.design.shift.distance].title} distance between features of "
        f"{name_of_features(opened.design.shift)}: 0 is another sample of the downstream images, 1 is "
        f"{far_end_text(opened.design.shift)}. It is {seen_by(opened.design.shift)}; another encoder or another distance gives "
        "other values. The change of a trend with the index includes the variation of the encoders, but not that of the images "
        "behind the index.",
        *initial_notes(opened),
        *baseline_notes(opened),
        *_task_notes(analysis),
        *_shifts(analysis),
        *_read_images(analysis),
        *_training(analysis),
    ]


def initial_notes(opened: Opened) -> list[str]:
    """Returns a note on the encoder that all runs continue from; empty if they start from random weights."""
    settings = opened.learners[0].settings
    if not settings.initial:
        return []
    card = settings.initial.card
    named = ", ".join(str(card[name]) for name in ("name", "architecture", "licence") if card.get(name))
    return [
        f"All runs continue from the encoder of --init={opened.design.declared.init} ({f'{named}, ' if named else ''}content "
        f"{settings.initial_digest[:12]}), with its own normalisation of images and with new heads; the initial encoder is the "
        f"baseline of gains. The encoder is frozen in the first {settings.frozen:.0%} of the steps, and then learns at "
        f"{settings.optimiser.encoder_rate:g} of the rate of the heads. Its licence, and what it was trained on, apply to the "
        "encoders of this study too."
    ]


def baseline_notes(opened: Opened) -> list[str]:
    """Returns notes on untrained encoders whose evaluated weights differ from the start of training."""
    silent = dict.fromkeys(learner.settings.encoder for learner in opened.learners if has_silent_branches(learner))
    return [
        f"The untrained {name} is evaluated with its residual branches switched on: training starts with zero-initialised "
        "branches, which compute almost nothing, and almost any training would exceed such a baseline."
        for name in silent
    ]


def _about_task(task: Task) -> str:
    return (
        f"{task.name}: probes are trained on {len(task.train.indices):,} labelled images; hyperparameters are chosen on "
        f"{len(task.validation.indices):,} others; the {METRICS[task.metric].text} of the {len(task.test.indices):,} test "
        "images is computed once. Encoders are finished and frozen (offline evaluation) unless fine-tuning is named."
    )


def _task_notes(analysis: Analysis) -> list[str]:
    """Returns the notes of evaluations; equal notes of several encoders are shown once."""
    everyone = analysis.results.encoders
    found = [
        f"{task}: {note.rstrip('.')}."
        for encoder in everyone
        for task, scores in encoder.scores.items()
        for note in scores.notes
    ]
    # Every encoder repeats the notes of its evaluations, and a study has hundreds of encoders.
    return [
        note if count == len(everyone) else f"{note} ({count} of {len(everyone)} encoders)"
        for note, count in Counter(found).items()
    ]


def _shifts(analysis: Analysis) -> list[str]:
    shifts = analysis.results.shifts
    return [f"{name}: no shift index. {shift.why}" for name, shift in shifts.items() if shift.why]


def _read_images(analysis: Analysis) -> list[str]:
    """Returns notes on images that could not be read, were not searched, or were excluded."""
    opened = analysis.opened
    found = []
    for candidate in opened.candidates:
        runs = analysis.runs_of(candidate.name, candidate.unique)
        broken = max((each.trained.broken for each in runs), default=0)
        if broken:
            found.append(
                f"{candidate.name}: up to {broken:,} of {candidate.unique:,} unique images could not be read in a run; each "
                "was replaced by another, and N counts those that could be read. broken.csv in the run's folder lists them."
            )
    for uri, leaks in analysis.results.leaks.items():
        if leaks.why:
            found.append(f"{uri}: not searched for test images, because {leaks.why}.")
    found += [f"{sentence}." for sentence in range_notes(opened)]
    for uri, source in opened.sources.items():
        if opened.withheld.get(uri):
            found.append(
                f"{uri}: images that equal an image of the held-out test split, as the encoders see them, are excluded; "
                f"{len(source):,} remain."
            )
        found += [f"{uri}: {note}." for note in source.notes]
        if source.refused:
            found.append(f"{refused_sentence(uri, source.refused)}.")
    return found


def _training(analysis: Analysis) -> list[str]:
    """Returns notes on runs with training steps that were not applied."""
    opened = analysis.opened
    return [
        f"{describe_run(opened, each.run)}: {each.trained.skipped:,} of {opened.learner(each.run).steps:,} training steps were "
        "skipped, because their loss or gradient was not finite (--on_nonfinite=skip)."
        for each in analysis.results.runs
        if each.trained.skipped
    ]


def caption(analysis: Analysis) -> str:
    """Returns one sentence on the study and on the meaning of its intervals."""
    opened = analysis.opened
    named = ", ".join(" on ".join(learner.key) for learner in opened.learners)
    return (
        f"Test {METRICS[opened.task.metric].text} on {opened.task.name} after pretraining on each source with one budget of "
        f"C = {opened.design.budget.samples:,} samples ({named}); {_counted(opened.design.seeds, opened.design.draws)}"
    )


def _counted(seeds: int, draws: int) -> str:
    subsets = f"{draws} draws of each subset" if draws > 1 else "one draw of each subset" if draws else ""
    if seeds > 1:
        return f"mean and 95% interval over {', '.join(filter(None, [f'{seeds} seeds', subsets]))} and the test images."
    over = f"{subsets} and the test images" if draws > 1 else "the test images alone"
    return f"one seed: the intervals are over {over} and do not include the variation between seeds."
