"""Values for the report's page, `report.html`. The template `page.html` has the headings and the order of the parts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sslshift.data.decode import to_image
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.reporting import Picture, Table, environment, png_uri, render_page
from sslshift.study.analysis import Analysis
from sslshift.study.opened import Opened, Run
from sslshift.study.report.sentences import answer, caption, findings, notes
from sslshift.study.report.tables import all_tables

if TYPE_CHECKING:
    from sslshift.study.report.figures import DrawnFigure

# Number of images shown of a source, and of pairs of similar images.
_SHOWN = 12
# Largest number of missing runs that the top of the page names.
_NAMED = 8


class Strip(NamedTuple):
    """Images of a source in a row."""

    pictures: list[Picture]
    label: str


class LeakSection(NamedTuple):
    """Section of the page on test images that one source contains or resembles."""

    sentence: str
    pictures: list[Picture]
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
        answer=answer(analysis),
        figures=figures,
        order_figure=order[0] if order else None,
        several_tasks=len(opened.tasks) > 1,
        findings=findings(analysis),
        tables={table.name: table for table in all_tables(analysis)},
        samples=[_sample(opened, uri) for uri in opened.sources],
        leaks=_leaks(analysis),
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
    return Strip([_picture(image) for image in images], f"{uri}: {len(source):,} images, licence: {source.licence}")


def _leaks(analysis: Analysis) -> list[LeakSection]:
    """Returns a section for each source that contains or resembles test images."""
    opened = analysis.opened
    test, indices = opened.task.test
    sections = []
    for number, (uri, leaks) in enumerate(analysis.results.leaks.items()):
        if not leaks.count:
            continue
        pairs = leaks.pairs[:_SHOWN]
        source = opened.sources[uri]
        pictures = []
        for pair in pairs:
            sides = ((source, pair.source_index), (test, pair.test_index))
            images = [side.read(np.array([index]), opened.canvas)[0] for side, index in sides]
            pictures.append(_picture(np.concatenate(images, axis=0)))
        lines = [(str(each.source_index), str(each.test_index), f"{each.distance:.2g}", each.how) for each in pairs]
        head = ("in the source", "in the test source", "distance", "how")
        rest = "" if len(leaks.pairs) == len(pairs) else f"All {len(leaks.pairs):,} pairs are in leaks.csv."
        table = Table(f"leaks-{number}", "Pairs", head, lines, rest, text_columns=0)
        sections.append(LeakSection(leaks.sentence(uri, len(indices)), pictures, table))
    return sections


def _picture(image: np.ndarray) -> Picture:
    # A pair is one picture with two images above each other.
    return Picture(png_uri(to_image(image), most=(128, 256)))


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
