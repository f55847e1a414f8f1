"""What `tools.shift` found, on a screen and as Markdown, CSV and JSON."""

import csv
import io
import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sslshift.shift.survey import Survey
from tools.shift_inputs import COSINES, Encoded
from tools.shift_output import Lines


def show(console: Console, lines: Lines, title: str, whole: bool = False) -> None:
    """Prints a table; `whole`: numbers are not wrapped."""
    table = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for head in lines[0]:
        words = head in ("source", "licence", "cost")
        table.add_column(
            head, justify="left" if words else "right", no_wrap=not words, overflow="fold" if words else "ellipsis"
        )
    for line in lines[1:]:
        table.add_row(*map(Text, line))
    console.print(table)


def markdown(tables: Sequence[Lines], sentences: Sequence[str], small: Sequence[str]) -> str:
    parts = ["\n".join(f"- {sentence}" for sentence in sentences)]
    for lines in tables:
        rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
        parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows))
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in small)]) + "\n"


def as_csv(survey: Survey, sets: Mapping[str, Encoded]) -> str:
    """A line per source; numbers of six digits, the same bytes whenever the same is measured."""
    raw = list(next(iter(survey.measured.values())).raw)
    head = [
        "source",
        "kind",
        "uri",
        "images",
        "used",
        "unique",
        "copies_of_target",
        *_unlike_names(),
        "cost_per_image",
        "licence",
    ]
    head += ["distance", "index", "low", "high", "sample_size", "covers_target", "near_target", "vendi", "effective_rank"]
    head += [f"{name}{what}" for name in raw for what in ("", "_floor", "_index")] + ["why"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for name in [*survey.measured, *survey.failed]:
        about = sets[name].about if name in sets else {}
        found = survey.measured.get(name)
        line = [name, *(about.get(key, "") for key in ("kind", "uri", "images", "used", "unique", "copies"))]
        line += [about.get("unlike", {}).get(f"{each:g}", "") for each in COSINES]
        line += [about.get("cost_per_image", ""), about.get("licence", "")]
        if found:
            index = found.index
            covered = found.coverage
            line += [survey.distance, *index[:3], index.sample_size, *covered, found.vendi, found.rank]
            line += [value for each in found.raw.values() for value in each[:3]] + ["; ".join(found.notes)]
        else:
            line += [""] * (len(head) - len(line) - 1) + [survey.failed[name]]
        writer.writerow(_cell(value) for value in line)
    return out.getvalue()


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else ""
    return str(value)


def _unlike_names() -> list[str]:
    return [f"unlike_{each:g}" for each in COSINES]


def as_json(survey: Survey, sets: Mapping[str, Encoded], target: Encoded) -> dict:
    """Everything that was found; numbers that are not there are null."""
    found = {
        name: {
            **sets[name].about,
            "index": each.index._asdict(),
            "raw": {other: raw._asdict() for other, raw in each.raw.items()},
            "coverage": each.coverage._asdict(),
            "vendi": each.vendi,
            "effective_rank": each.rank,
            "notes": list(each.notes),
        }
        for name, each in survey.measured.items()
    }
    about = {"distance": survey.distance, "sample_size": survey.sample_size, "coverage_expected": survey.coverage_expected}
    target_about = {**target.about, "vendi": survey.vendi, "effective_rank": survey.rank}
    return _plain({**about, "target": target_about, "sources": found, "failed": survey.failed})


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
