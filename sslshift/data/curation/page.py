"""Pairs of images as a page for people: is the limit right? It is one HTML file that loads nothing from anywhere."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sslshift.data.curation.labels import label_text
from sslshift.data.curation.linking import Pairs
from sslshift.data.decode import to_image
from sslshift.data.sources import Source

# Pairs of a section, and pixels of a picture's longer side at most.
_SHOWN = 48
_SIDE = 128

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222 }}
section {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; padding: .5rem; background: #f1f1f1; border-radius: .3rem }}
img {{ width: 7rem; height: 7rem; object-fit: contain; image-rendering: pixelated; background: #ccc }}
figcaption {{ font-size: .8rem }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
{sections}
</html>
"""


class Section(NamedTuple):
    """Pairs under one heading, shown in their order with their labels; `say` puts a distance into words."""

    heading: str
    pairs: Pairs
    say: Callable[[float], str]


def page(title: str, summary: str, sections: Sequence[Section], first: Source, second: Source) -> str:
    """The page as text. Images are read again; `first` and `second` are the sources of the pairs' sides."""
    parts = []
    for heading, pairs, say in sections:
        more = f", {_SHOWN} of {pairs.count:,}" if pairs.count > _SHOWN else ""
        figures = [
            _figure((first, int(i)), (second, int(j)), say(float(distance)))
            for i, j, distance in zip(*(side[:_SHOWN] for side in pairs), strict=True)
        ]
        parts.append(f"<h2>{html.escape(heading)}{more}</h2>\n<section>\n{''.join(figures) or 'None.'}\n</section>")
    return _PAGE.format(title=html.escape(title), summary=html.escape(summary), sections="\n".join(parts))


def by_distance(pairs: Pairs, *, nearest_first: bool) -> Pairs:
    order = np.argsort(pairs.distance if nearest_first else -pairs.distance, kind="stable")
    return Pairs(*(side[order] for side in pairs))


def _figure(first: tuple[Source, int], second: tuple[Source, int], caption: str) -> str:
    labels = [label_text(*side) or "no label" for side in (first, second) if side[0].labels is not None]
    caption = f"{caption}, {' and '.join(dict.fromkeys(labels))}" if labels else caption
    pictures = "".join(_picture(source, index) for source, index in (first, second))
    return f"<figure>{pictures}<figcaption>{first[1]:,} and {second[1]:,}: {html.escape(caption)}</figcaption></figure>\n"


def _picture(source: Source, index: int) -> str:
    picture = to_image(source.image(index))
    content = io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(content, "PNG")
    origin = html.escape(source.origin(index), quote=True)
    return f'<img src="data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}" alt="{origin}" title="{origin}">'
