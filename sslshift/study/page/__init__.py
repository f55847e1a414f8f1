"""The report: one HTML page that holds everything it shows, and asks for nothing.

`page.html` is its frame, `page.css` how it looks, `page.js` what sorts its tables and gives them away as CSV files.
"""

import base64
import dataclasses
import hashlib
import html
import string
from collections.abc import Mapping, Sequence
from importlib import resources

from sslshift.reporting import Table
from sslshift.study import environment
from sslshift.study.contents import all_tables
from sslshift.study.figures import Drawn
from sslshift.study.findings import answer, findings
from sslshift.study.notes import caption, notes
from sslshift.study.page.pictures import leaked, samples
from sslshift.study.results import Results

_TITLE = "Which data should the encoder be pretrained on?"
# Tables of which it is enough to see the head at first.
_LONG = ("pairs", "runs")
# Missing runs that are named at the top.
_NAMED = 8


def page(results: Results, figures: Sequence[Drawn], files: Mapping[str, str]) -> str:
    """The page as HTML text.

    Args:
      results: of the study, finished or not.
      figures: as `draw_all` gives them.
      files: CSV files that the page gives away whole, by name.
    """
    script = (resources.files("sslshift.reporting") / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": _TITLE,
        "script": script,
        "script_hash": f"sha256-{digest}",
        "style": _part("page.css"),
        "about": html.escape(caption(results)),
        "unfinished": _unfinished(results),
        "answer": "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in answer(results)),
        "body": "\n".join(_sections(results, figures, files)),
    }
    return string.Template(_part("page.html")).substitute(parts)


def _part(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")


def _unfinished(results: Results) -> str:
    """What is missing, so that nobody takes the page for the whole study."""
    planned = len(results.opened.runs)
    missing = results.missing
    failed = results.failed
    if not missing and not failed:
        return ""
    lines = [f"This study is not finished: {len(results.runs)} of {planned} runs are."]
    lines += [f"Failed: {_run(results, run)}: {why}" for run, why in failed]
    if missing:
        more = f"; and {len(missing) - _NAMED} more, see the table of every run" if len(missing) > _NAMED else ""
        lines.append(f"Missing: {'; '.join(_run(results, run) for run in missing[:_NAMED])}{more}.")
    lines += ["Give the study's command again: it goes on where it was."]
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<section class="missing" aria-label="What is missing">{text}</section>\n'


def _run(results: Results, run) -> str:
    learner = f"{run.method} on {run.encoder}, " if len(results.opened.learners) > 1 else ""
    draw = f", draw {run.draw}" if results.opened.study.draws else ""
    return f"{learner}{run.source} N = {run.unique:,}, seed {run.seed}{draw}"


def _sections(results: Results, figures: Sequence[Drawn], files: Mapping[str, str]) -> list[str]:
    tables = {table.name: table for table in all_tables(results)}
    several = len(results.opened.tasks) > 1
    parts = []
    for drawn in figures:
        title = f"{drawn.title}: {drawn.task}" if several else drawn.title
        parts.append(f'<section class="drawn"><h2>{html.escape(title)}</h2>\n{_figure(drawn)}</section>')
        if drawn.kind == "order_comparison" and "order" in tables:
            parts.append(tables.pop("order").html)
    parts.append(f"<h2>What else this study shows</h2>\n{_list(findings(results))}")
    shift = tables.pop("shift")
    mixtures = tables.pop("mixtures", None)
    parts += [_section(table) for table in tables.values() if table.name not in _LONG]
    parts += [_section(shift), *([_section(mixtures)] if mixtures else [])]
    parts += ["<h2>What the sources look like</h2>", *(samples(results.opened, uri) for uri in results.opened.sources)]
    parts += [leaked(results), f"<h2>How to read this</h2>\n{_list(notes(results))}", _downloads(files)]
    parts += [_folded(tables[name].title, tables[name].html) for name in _LONG if name in tables]
    return [*parts, *_settings(results)]


def _section(table: Table) -> str:
    return f"<h2>{html.escape(table.title)}</h2>\n{table.html}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def _list(sentences: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


_FIGURE_NOTES = {
    "accuracy_vs_diversity": "Means with 95% intervals over test images and seeds (of one seed: over test images alone); the "
    "band is the untrained encoder's. Points at one diversity stand a little aside of each other.",
    "accuracy_vs_shift": "Intervals of accuracy, of the slope and of the index itself; the band is the untrained encoder's.",
    "order_comparison": "Paired differences with the 95% interval of each pair (of one seed: none); a filled mark is a "
    "difference that is shown after Holm's correction.",
}


def _figure(drawn: Drawn) -> str:
    """Both forms; the style shows the one that fits the screen."""
    forms = {"narrow": "narrow", "wide": "wide-form"}
    both = "".join(svg.replace("<svg", f'<svg class="{forms[width]}"', 1) for width, svg in drawn.svg.items())
    return f"<figure>{both}<figcaption>{_FIGURE_NOTES[drawn.kind]}</figcaption></figure>"


def _downloads(files: Mapping[str, str]) -> str:
    links = "".join(
        f'<a download="{html.escape(name)}" href="data:text/csv;base64,{base64.b64encode(text.encode()).decode()}">'
        f"{html.escape(name)}</a>"
        for name, text in files.items()
    )
    return f'<h2 class="away">Everything as CSV</h2>\n<p class="downloads">{links}</p>'


def _settings(results: Results) -> list[str]:
    study = results.opened.study
    settings = [
        (f"--{name}", str(each))
        for name, value in dataclasses.asdict(study).items()
        for each in (value if isinstance(value, tuple) else (value,))
    ]
    took = sum(judged.trained.get("seconds", 0.0) for _, judged in results.runs)
    ran = [
        ("device", environment.devices()),
        ("training of all finished runs", f"{took:,.0f} seconds on the clock"),
        ("training seeds", ", ".join(map(str, range(study.seeds)))),
        *((f"{name} version", each) for name, each in environment.versions().items()),
    ]
    flags = Table("settings", "Settings", ("flag", "value"), settings, text_columns=2)
    what = Table("environment", "Versions, seeds and device", ("what", "value"), ran, text_columns=2)
    return [
        _folded("The command", f"<pre>{html.escape(environment.command(study))}</pre>"),
        _folded(what.title, what.html),
        _folded(flags.title, flags.html),
    ]
