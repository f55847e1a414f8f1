"""The HTML page of a survey: one file that loads nothing from elsewhere and has no script.

Its sentences are in `page.html`, its charts here.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sslshift.data.decode import BrokenImageError, to_image
from sslshift.data.source_text import short_names
from sslshift.reporting import Captioned, Picture, Table, figures, png_uri, render_page
from sslshift.shift._base import blocks, matrix, require_one_dimension
from sslshift.shift.index import FAR_ENDS, NEAR_END
from sslshift.shift.layers import LayerProfile
from sslshift.shift.neighbourhoods import closest_matches, coverage_of, nearness, squared_radii
from sslshift.shift.survey.inputs import Encoded
from sslshift.shift.survey.measure import IMAGES, NEIGHBOURS, LayerProfiles, Survey
from sslshift.shift.survey.report import FLOOR, REFERENCE, index_text

# Images in each gallery, and their largest side in pixels.
_SHOWN = 8
_SIDE = 96
# Points of each set on the map: more would hide each other.
_POINTS = 250
# Inches: a telephone and a column of a paper can both show it.
_WIDTH = 4.4


class SourceExamples(NamedTuple):
    """Images of a source that are nearest to the target, each beside the image that it resembles, and farthest from it."""

    name: str
    nearest: list[Captioned]
    farthest: list[Captioned]


class PageTexts(NamedTuple):
    """Sentences of the page.

    Attributes:
      answer: the answer, which begins the page.
      warnings: limits of the results.
      reading: the order of the sources, and each of them.
      notes: what was compared, and how to read the tables.
    """

    answer: Sequence[str]
    warnings: Sequence[str]
    reading: Sequence[str]
    notes: Sequence[str]


def page(
    found: Survey,
    sets: Mapping[str, Encoded],
    target: Encoded,
    *,
    texts: PageTexts,
    tables: Sequence[Table],
    trained: bool,
    layers: LayerProfiles,
    settings: Table,
) -> str:
    """Returns the page as text.

    Args:
      found: the survey.
      sets: sources and mixtures by name.
      target: the target.
      texts: the sentences.
      tables: the tables, the one that belongs to the answer first.
      trained: whether the encoder sees more than colour and texture.
      layers: profiles over the layers of the encoder.
      settings: flags and values.
    """
    names = list(found.measured)
    # A source has the same colour and marker in all charts, by its rank.
    looks = {name: figures.look(number) for number, name in enumerate(names)}
    pictured = {name: sets[name] for name in names if sets[name].images}
    # Mixtures have no images of their own: their components show them.
    radii = squared_radii(target.features, NEIGHBOURS)
    everything = np.concatenate([each.features for each in pictured.values()]) if pictured else None
    return render_page(
        __package__,
        "page.html",
        target=short_names([target.about.uri])[0],
        **texts._asdict(),
        trained=trained,
        index_chart=figures.chart("index", "shift index of every source with its interval", lambda: _index_chart(found, looks)),
        tables=tables,
        # Features are in a random order, so that the first images are a random sample.
        target_images=_captioned(target, np.arange(min(_SHOWN, len(target.features)))),
        uncovered=[] if everything is None else _captioned(target, _farthest(target.features, everything)[:_SHOWN]),
        covered="" if everything is None else f"{100 * coverage_of(target.features, everything).target:.0f}%",
        examples=[_examples(name, each, target, radii) for name, each in pictured.items()],
        points=_POINTS,
        map_chart=figures.chart(
            "map", "map of the images of all sources and the target", lambda: _map_chart(target, pictured, looks)
        )
        if pictured
        else "",
        layer_images=f"{layers.noise.images[0]:,}" if layers.noise else "",
        most_layer_images=f"{IMAGES:,}",
        layer_chart=figures.chart(
            "layers", "VisualDNA distance of every source in every layer", lambda: _layer_chart(layers, looks)
        )
        if layers.noise
        else "",
        no_layers=layers.why,
        settings=settings,
    )


def _examples(name: str, source: Encoded, target: Encoded, radii: np.ndarray) -> SourceExamples:
    matches = closest_matches(target.features, source.features, neighbours=NEIGHBOURS, target_radii=radii)
    pairs = zip(_captioned(source, matches.source[:_SHOWN]), _captioned(target, matches.target[:_SHOWN]), strict=True)
    nearest = [Captioned([*of_source.pictures, *of_target.pictures], of_source.caption) for of_source, of_target in pairs]
    return SourceExamples(name, nearest, _captioned(source, _farthest(source.features, target.features)[:_SHOWN]))


def _farthest(features: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns the rows by their mean distance to the five nearest rows of a reference, the farthest first."""
    return np.argsort(-nearness(features, reference), kind="stable")


def _captioned(encoded: Encoded, places: np.ndarray) -> list[Captioned]:
    return [_image(encoded, int(encoded.images.indices[place])) for place in places]


def _image(encoded: Encoded, index: int) -> Captioned:
    source = encoded.images.source
    try:
        picture = to_image(source.image(index))
    except BrokenImageError:
        return Captioned([], [f"{index:,}: cannot be read any more"])
    origin = source.origin(index)
    # An address that is not a path ends in the index already.
    short = "" if origin.endswith(f"image {index}") else "/".join(PurePath(origin).parts[-2:])
    return Captioned([Picture(png_uri(picture, (_SIDE, _SIDE)), origin)], [f"{index:,}", short])


def _index_chart(found: Survey, looks: Mapping[str, figures.Look]) -> Figure:
    """Draws each source with its interval on the scale from 0 to 1."""
    drawing, axes = _panel(0.38 * len(looks) + 0.7)
    for row, (name, each) in enumerate(found.measured.items()):
        index = each.index
        colour, marker = looks[name]
        axes.plot([index.low, index.high], [-row, -row], color=colour, linewidth=2)
        axes.plot(index.value, -row, marker, color=colour, markersize=6)
        label = f"{figures.shortened(name, 40)}: {index_text(each)}"
        # White behind the text hides the lines at 0 and 1.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        # Names may contain dollar signs, which begin no formula here.
        axes.text(0.01, -row + 0.3, label, transform=axes.get_yaxis_transform(), parse_math=False, fontsize=7.5, bbox=box)
    low = min(-0.05, *(each.index.low for each in found.measured.values()))
    high = max(1.08, *(each.index.high for each in found.measured.values()))
    axes.set(xlim=(low, high), ylim=(0.4 - len(looks), 0.75), yticks=[])
    for value in (0, 1):
        axes.axvline(value, color=figures.MUTED, linewidth=0.8, zorder=0)
    axes.set_xlabel(f"shift index: 0 is {NEAR_END}, 1 is {FAR_ENDS[found.far_end]}")
    return drawing


def _map_chart(target: Encoded, pictured: Mapping[str, Encoded], looks: Mapping[str, figures.Look]) -> Figure:
    """Draws images as points on a plane: the target's as black rings, the sources' in their colours."""
    points, shares = plane([target.features, *(each.features for each in pictured.values())])
    points = [each[:_POINTS] for each in points]
    everything = np.concatenate(points)
    # A few distant points would leave little space for all others.
    low = np.percentile(everything, 0.5, axis=0)
    high = np.percentile(everything, 99.5, axis=0)
    margin = 0.04 * np.maximum(high - low, 1e-12)
    drawing, axes = _panel(3.4)
    for name, each in zip(pictured, points[1:], strict=True):
        colour, marker = looks[name]
        axes.plot(*np.clip(each, low, high).T, marker, color=colour, markersize=2.5, alpha=0.65, markeredgewidth=0)
    axes.plot(*np.clip(points[0], low, high).T, "o", color="black", markersize=3, fillstyle="none", markeredgewidth=0.6)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))
    # Values of principal components mean nothing to a reader; only positions do.
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(f"first component, {100 * shares[0]:.0f}% of the variance")
    axes.set_ylabel(f"second component, {100 * shares[1]:.0f}%")
    ring = Line2D([], [], color="black", marker="o", fillstyle="none", linestyle="")
    _legend(drawing, {"the target": ring} | {name: _point(looks[name]) for name in pictured})
    return drawing


def _layer_chart(layers: LayerProfiles, looks: Mapping[str, figures.Look]) -> Figure:
    """Draws the distance from the target in every layer, a line per source, beside the far end and the floor of chance."""
    names = list(layers.noise.layers)
    places = np.arange(len(names))
    every: list[LayerProfile] = [layers.noise, *(layers.sources[name] for name in looks)]
    # The largest floor of all sets is drawn: a distance below it may be due to chance for any set.
    floors = [max(each.layers[name].floor for each in every) for name in names]
    drawing, axes = _panel(2.6)
    axes.plot(places, floors, color="#8a93a3", linewidth=3)
    axes.plot(places, _distances(layers.noise), ":", color="black", linewidth=1.2)
    for name, (colour, marker) in looks.items():
        axes.plot(places, _distances(layers.sources[name]), f"{marker}-", color=colour)
    # More names than these would overlap.
    step = max(1, -(-len(names) // 8))
    axes.set_xticks(places[::step], names[::step])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("distance, bins")
    lines = {REFERENCE: Line2D([], [], color="black", linestyle=":"), FLOOR: Line2D([], [], color="#8a93a3", linewidth=3)}
    _legend(drawing, {name: _point(look) for name, look in looks.items()} | lines)
    return drawing


def _distances(profile: LayerProfile) -> list[float]:
    return [level.distance for level in profile.layers.values()]


def _panel(height: float) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(_WIDTH, height), layout="constrained")
    return drawing, drawing.subplots()


def _point(look: figures.Look) -> Line2D:
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="")


def _legend(drawing: Figure, entries: Mapping[str, Line2D]) -> None:
    # matplotlib leaves labels that begin with an underscore out of a legend.
    labels = [f" {figures.shortened(name, 40)}" for name in entries]
    legend = drawing.legend(list(entries.values()), labels, loc="outside lower left", ncols=1 if len(labels) > 8 else 2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def plane(sets: Sequence[np.ndarray]) -> tuple[list[np.ndarray], tuple[float, float]]:
    """Returns principal components of several sets of features together, each set with the same weight.

    Example:
      >>> import numpy as np
      >>> points, shares = plane([np.array([[0.0, 0.0], [0.0, 2.0]]), np.array([[4.0, 0.0], [4.0, 2.0]])])
      >>> [each.round(9).tolist() for each in points], [round(share, 3) for share in shares]
      ([[[-2.0, -1.0], [-2.0, 1.0]], [[2.0, -1.0], [2.0, 1.0]]], [0.8, 0.2])

    Args:
      sets: features `[n, dim]` of each set.

    Returns:
      Coordinates `[n, 2]` of each set (equal sets give equal coordinates, up to rounding), and the share of the variance along
      either axis.

    Raises:
      ValueError: features are not finite matrices of one dimension.
    """
    sets = [matrix(each) for each in sets]
    for each in sets[1:]:
        require_one_dimension(sets[0].shape[1], each.shape[1])
    dim = sets[0].shape[1]
    mean = np.mean([np.asarray(each, np.float64).mean(axis=0) for each in sets], axis=0)
    scatter = np.zeros((dim, dim))
    for each in sets:
        for block in blocks(each):
            scatter += (block - mean).T @ (block - mean) / (len(each) * len(sets))
    values, vectors = np.linalg.eigh(scatter)
    axes = vectors[:, ::-1][:, :2]
    # The sign of an axis is arbitrary; without a rule the map could be mirrored from one call to the next.
    # The first of the largest entries decides; entries that differ by rounding alone must count as equal for that.
    axes *= np.sign(axes[np.argmax(np.abs(axes) > np.abs(axes).max(axis=0) - 1e-9, axis=0), np.arange(axes.shape[1])])
    # The map has two axes for any number of features.
    if dim == 1:
        axes = np.concatenate([axes, np.zeros((1, 1))], axis=1)
    total = max(values.sum(), np.finfo(float).tiny)
    shares = [*(values[::-1][:2] / total).tolist(), 0.0][:2]
    return [np.concatenate([(block - mean) @ axes for block in blocks(each)]) for each in sets], (shares[0], shares[1])
