"""The page of `tools.shift`: one file that loads nothing from anywhere and has no script."""

import base64
import html
import io
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import PurePath

import numpy as np

from sslshift.data.decode import BrokenImageError, to_image
from sslshift.shift.layers import LayerProfile
from sslshift.shift.neighbourhoods import coverage_of, nearness, plane
from sslshift.shift.survey import Survey
from tools.shift_charts import index_chart, layer_chart, legend, map_chart
from tools.shift_inputs import Encoded
from tools.shift_layers import IMAGES
from tools.shift_output import Lines, index_text

_SHOWN = 8
_SIDE = 96
_POINTS = 250
_STYLE = """\
svg.chart { width: 100%; max-width: 38rem; }
svg.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem; }
.legend span { display: inline-block; margin: 0 1.1rem .2rem 0; }
.pictures { display: flex; flex-wrap: wrap; gap: .5rem; }
.pictures figure { width: 6rem; margin: 0; }
.pictures img { width: 6rem; height: 6rem; object-fit: contain; background: #eef0f4; }
.pictures figcaption { font-size: .7rem; line-height: 1.3; }
@media print { .pictures figure { break-inside: avoid; } svg.chart { max-width: 30rem; } }
"""


def page(
    found: Survey,
    sets: Mapping[str, Encoded],
    target: Encoded,
    *,
    about: Sequence[str],
    answer: Sequence[str],
    warnings: Sequence[str],
    tables: Mapping[str, Lines],
    notes: Sequence[str],
    layers: tuple[dict[str, LayerProfile], LayerProfile] | str,
    settings: Lines,
) -> str:
    """The page as text.

    Args:
      found: the survey.
      sets: sources and mixtures by name.
      target: the target.
      about: what was compared, by which encoder.
      answer: the reading.
      warnings: what to mind.
      tables: by title.
      notes: how to read the tables.
      layers: profiles of the sources and of noise; or why there are none.
      settings: flags and values.
    """
    parts = [
        _box("missing", "Warnings", warnings),
        "<h2>How far each source is</h2>",
        index_chart(
            {name: each.index for name, each in found.measured.items()}, {n: index_text(e) for n, e in found.measured.items()}
        ),
        *(f"<h2>{html.escape(title)}</h2>\n{_table(lines)}" for title, lines in tables.items()),
        *_examples(found, sets, target),
        _map(found, sets, target),
        _layers(layers, list(found.measured)),
        "<h2>How to read this</h2>",
        _list(notes),
        f"<details><summary>Settings</summary>{_table(settings)}</details>",
    ]
    # The frame of a study's report without its script.
    frame, style = ((resources.files("sslshift.study.page") / f"page.{kind}").read_text("utf-8") for kind in ("html", "css"))
    return string.Template(frame.replace("<script>$script</script>\n", "")).substitute(
        title=html.escape(f"How far is it from {target.about['uri']}?"),
        script_hash="none",
        style=style + _STYLE,
        about="<br>".join(map(html.escape, about)),
        unfinished="",
        answer="\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in answer),
        body="\n".join(parts),
    )


def _box(kind: str, title: str, sentences: Sequence[str]) -> str:
    lines = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return f'<section class="{kind}" aria-label="{title}">\n{lines}\n</section>' if sentences else ""


def _table(lines: Lines) -> str:
    words = [place == 0 or lines[0][place] in ("licence", "value") for place in range(len(lines[0]))]
    kinds = [' class="text"' if each else "" for each in words]
    head = "".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in zip(lines[0], kinds, strict=True))
    rows = [
        "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(line, kinds, strict=True)) for line in lines[1:]
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{html.escape(each)}</li>' for each in sentences)}</ul>"


def _examples(found: Survey, sets: Mapping[str, Encoded], target: Encoded) -> list[str]:
    """Images of the target and of every source, and what of the target no source comes near to."""
    shown = {name: sets[name] for name in found.measured if sets[name].images}
    parts = ["<h2>The target</h2>", _pictures(target, np.arange(min(_SHOWN, len(target.features))))]
    if shown:
        everything = np.concatenate([each.features for each in shown.values()])
        lonely = np.argsort(-nearness(target.features, everything), kind="stable")[:_SHOWN]
        parts += [
            "<h3>What the sources come least near to</h3>",
            "<p>Of the target, those farthest from their five nearest images of all sources: collect images like these first. "
            f"{_covered(everything, target)}</p>",
            _pictures(target, lonely),
        ]
    for name, each in shown.items():
        order = np.argsort(nearness(each.features, target.features), kind="stable")
        parts += [
            f"<h2>{html.escape(name)}</h2>\n<p>Nearest to the target, by the mean distance to its five nearest images:</p>",
            _pictures(each, order[:_SHOWN]),
            "<p>Farthest from it:</p>",
            _pictures(each, order[::-1][:_SHOWN]),
        ]
    return parts


def _covered(everything: np.ndarray, target: Encoded) -> str:
    share = coverage_of(target.features, everything).target
    return f"All sources together have a near image for {100 * share:.0f}% of the target's."


def _pictures(encoded: Encoded, places: np.ndarray) -> str:
    return f'<div class="pictures">{"".join(_picture(encoded, int(encoded.kept[place])) for place in places)}</div>'


def _picture(encoded: Encoded, index: int) -> str:
    source = encoded.images.source
    content = io.BytesIO()
    try:
        picture = to_image(source.image(index))
    except BrokenImageError:
        return f"<figure><figcaption>{index:,}: cannot be read any more</figcaption></figure>"
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(content, "PNG", optimize=True)
    origin = source.origin(index)
    data = base64.b64encode(content.getvalue()).decode()
    # An address that is no path ends in the index already.
    short = "" if origin.endswith(f"image {index}") else "/".join(PurePath(origin).parts[-2:])
    name = html.escape(origin, quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{name}" title="{name}">'
        f"<figcaption>{index:,}<br>{html.escape(short)}</figcaption></figure>"
    )


def _map(found: Survey, sets: Mapping[str, Encoded], target: Encoded) -> str:
    names = [name for name in found.measured if sets[name].images]
    if not names:
        return ""
    points, shares = plane([target.features, *(sets[name].features for name in names)])
    some = {name: each[:_POINTS] for name, each in zip(names, points[1:], strict=True)}
    numbers = {name: number for number, name in enumerate(found.measured)}
    return (
        f"<h2>A map</h2>\n<p>Principal components of the features; at most {_POINTS} images each. Sets apart here are "
        "apart; sets on top of each other may still differ in what two components do not show.</p>\n"
        f"{legend(names, [numbers[name] for name in names], target=True)}"
        f"{map_chart(some, [numbers[name] for name in names], points[0][:_POINTS], shares)}"
    )


def _layers(layers: tuple[dict[str, LayerProfile], LayerProfile] | str, names: Sequence[str]) -> str:
    head = "<h2>Where in the encoder they differ</h2>\n"
    if isinstance(layers, str):
        return f"{head}<p>{html.escape(layers)}</p>"
    profiles = {name: layers[0][name] for name in names}
    images = layers[1].images[0]
    return (
        f"{head}<p>VisualDNA distance of every block's activations from the target's, in bins of 1,000, at {images:,} images a "
        f"side (of at most {IMAGES:,}); the floor is what chance gives at that size. Early blocks see colour, edges "
        "and texture; late ones of a trained encoder see what is shown.</p>\n"
        f"{legend(names, range(len(names)), target=False)}{layer_chart(profiles, layers[1])}"
    )
