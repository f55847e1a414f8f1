"""Pictures inside the page: what sources look like, and which of their images equal or resemble test images."""

import base64
import html
import io

import numpy as np
from PIL import Image

from sslshift.data.decode import to_image
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.reporting import Table
from sslshift.study.leaks import told
from sslshift.study.opened import Opened
from sslshift.study.results import Results

_SHOWN = 12


def samples(opened: Opened, uri: str) -> str:
    """Some images of a source, in a seeded order, as an HTML `figure`."""
    source = opened.sources[uri]
    indices = permute(np.arange(min(_SHOWN, len(source))), len(source), 0)
    images = source.read(readable(source, indices, opened.canvas), opened.canvas)
    return _gallery(images, f"{uri}: {len(source):,} images, licence: {source.licence}")


def leaked(results: Results) -> str:
    """A warning, and some of the pairs, for every source with test images or similar ones; nothing if there are none."""
    opened = results.opened
    parts = []
    for number, (uri, leaks) in enumerate(results.leaks.items()):
        if not leaks.get("count"):
            continue
        pairs = leaks["pairs"][:_SHOWN]
        sides = ((0, opened.sources[uri]), (1, opened.task.test[0]))
        columns = [
            np.concatenate([source.read(np.array([pair[side]]), opened.canvas)[0] for side, source in sides], axis=0)
            for pair in pairs
        ]
        lines = [(str(first), str(second), f"{distance:.2g}", how) for first, second, distance, how, *_ in pairs]
        head = ("in the source", "in the test source", "distance", "how")
        rest = "" if len(leaks["pairs"]) == len(pairs) else f"All {len(leaks['pairs']):,} pairs are in leaks.csv."
        parts.append(
            f"<p>{html.escape(told(uri, leaks, opened))}. Above each test image stands the one of the source:</p>"
            + _gallery(np.stack(columns), "pairs of a source's image and a test image")
            + Table(f"leaks-{number}", "Pairs", head, lines, rest, text_columns=0).html
        )
    return f"<h2>Test images that pretraining images equal or resemble</h2>\n{''.join(parts)}\n" if parts else ""


def _gallery(images: np.ndarray, caption: str) -> str:
    pictures = "".join(f'<img alt="" src="data:image/png;base64,{_png(image)}">' for image in images)
    name = html.escape(caption, quote=True)
    return (
        f'<figure><div class="samples" role="img" aria-label="{name}">{pictures}</div><figcaption>{name}</figcaption></figure>'
    )


def _png(image: np.ndarray) -> str:
    """At most as large as it is shown on a screen of twice the usual pixels."""
    picture = to_image(image)
    out = io.BytesIO()
    if picture.width > 128:
        picture = picture.resize((128, round(picture.height * 128 / picture.width)), Image.Resampling.LANCZOS)
    picture.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
