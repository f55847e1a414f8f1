"""The charts of `tools.shift`'s page as SVG text: index, map and layers. Narrow enough for a telephone, and for paper."""

import html
from collections.abc import Mapping, Sequence

import numpy as np

from sslshift.shift.index import ShiftIndex
from sslshift.shift.layers import LayerProfile

# Okabe & Ito's colours, which the colour-blind tell apart; shapes and dashes repeat what they say.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b")
_DASHES = ("", "6 3", "2 2", "8 3 2 3", "1 3")
_WIDTH = 420


def style_of(number: int) -> tuple[str, str]:
    """Colour and dash of the source of this number."""
    return _COLOURS[number % len(_COLOURS)], _DASHES[number % len(_DASHES)]


def mark(number: int, x: float, y: float, size: float = 4, more: str = "") -> str:
    """A small shape of the source's own, in its colour."""
    colour = style_of(number)[0]
    kind = number % 4
    shape = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"',
        f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size}" height="{2 * size}"',
        f'<path d="M{x:.1f} {y - size:.1f}L{x + size:.1f} {y + size:.1f}H{x - size:.1f}Z"',
        f'<path d="M{x:.1f} {y - size:.1f}L{x + size:.1f} {y:.1f}L{x:.1f} {y + size:.1f}L{x - size:.1f} {y:.1f}Z"',
    ][kind]
    return f'{shape} fill="{colour}"{more}/>'


def _svg(height: float, title: str, body: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{html.escape(title, quote=True)}" class="chart" '
        f'font-family="system-ui, sans-serif" font-size="11" fill="#1b2130">{"".join(body)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def index_chart(indices: Mapping[str, ShiftIndex], texts: Mapping[str, str]) -> str:
    """A dot and its interval for each source, on the scale from 0, more of the same, to 1, noise."""
    low = min(-0.05, *(each.low for each in indices.values()))
    high = max(1.08, *(each.high for each in indices.values()))
    left = 12
    right = _WIDTH - 12
    top = 30
    row = 38
    bottom = top + row * len(indices)

    def at(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    step = 0.25 if high - low < 3 else float(2 ** np.ceil(np.log2((high - low) / 8)))
    body = []
    for value in np.arange(np.ceil(low / step) * step, high, step):
        ends = value in (0, 1)
        colour = "#6b7484" if ends else "#e3e6ec"
        body.append(f'<path d="M{at(value):.1f} {top}V{bottom}" stroke="{colour}"/>')
        body.append(_text(at(value), bottom + 14, f"{value + 0:g}", "middle"))
    body += [_text(at(0), 12, "0: more of the same", "start"), _text(at(1), 24, "1: noise", "middle" if high > 1.2 else "end")]
    for number, (name, index) in enumerate(indices.items()):
        y = top + row * number + 28
        colour = style_of(number)[0]
        body.append(f'<path d="M{left} {y}H{right}" stroke="#eef0f4"/>')
        label = f"{_short(name, 62 - len(texts[name]))}: {texts[name]}"
        body.append(_text(left, y - 11, label, more=' paint-order="stroke" stroke="#fff" stroke-width="4"'))
        body.append(f'<path d="M{at(index.low):.1f} {y}H{at(index.high):.1f}" stroke="{colour}" stroke-width="3"/>')
        body.append(mark(number, at(index.value), y, 5))
    return _svg(bottom + 22, "shift index of every source with its interval", body)


def map_chart(points: Mapping[str, np.ndarray], numbers: Sequence[int], target: np.ndarray, shares: tuple[float, float]) -> str:
    """Images as points on a plane: the target's as black rings, the sources' as marks."""
    everything = np.concatenate([target, *points.values()])
    # A few far ones would press all others together.
    low = np.percentile(everything, 0.5, axis=0)
    high = np.percentile(everything, 99.5, axis=0)
    span = np.maximum(high - low, 1e-12)
    low = low - 0.04 * span
    span = 1.08 * span
    side = _WIDTH - 40

    def at(point: np.ndarray) -> tuple[float, float]:
        x, y = np.clip((point - low) / span, 0, 1)
        return 30 + x * side, 6 + (1 - y) * (side - 60)

    bottom = side - 54
    body = [f'<rect x="30" y="6" width="{side}" height="{side - 60}" fill="none" stroke="#c3c9d4"/>']
    for number, each in zip(numbers, points.values(), strict=True):
        body += [mark(number, *at(point), 2, ' fill-opacity="0.65"') for point in each]
    for x, y in map(at, target):
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" fill="none" stroke="#000" stroke-width="0.8"/>')
    body.append(_text(30 + side / 2, bottom + 16, f"first component, {100 * shares[0]:.0f}% of the variance", "middle"))
    turned = ' transform="rotate(-90)"'
    body.append(_text(-(bottom + 6) / 2, 18, f"second component, {100 * shares[1]:.0f}%", "middle", turned))
    return _svg(bottom + 24, "map of the images of all sources and the target", body)


def layer_chart(profiles: Mapping[str, LayerProfile], noise: LayerProfile) -> str:
    """Distance from the target in every layer, a line per source, beside noise; up to the grey line it is chance."""
    layers = list(noise.layers)
    values = {name: [level.distance for level in each.layers.values()] for name, each in profiles.items()}
    floors = [max(each.layers[layer].floor for each in [noise, *profiles.values()]) for layer in layers]
    of_noise = [level.distance for level in noise.layers.values()]
    top = 1.05 * max(*of_noise, *floors, *(max(each) for each in values.values()), 1e-9)
    power = 10 ** np.floor(np.log10(top / 4))
    step = power * next(each for each in (1, 2, 5, 10) if top / 4 <= each * power)
    left = 40
    right = _WIDTH - 12
    height = 220

    def at(place: int, value: float) -> tuple[float, float]:
        return left + (place + 0.5) * (right - left) / len(layers), 10 + (1 - value / top) * height

    def line(numbers: Sequence[float], colour: str, dash: str, width: float) -> str:
        path = "L".join("{:.1f} {:.1f}".format(*at(place, value)) for place, value in enumerate(numbers))
        return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-dasharray="{dash or "none"}"/>'

    body = [f'<path d="M{left} 10V{10 + height}H{right}" fill="none" stroke="#6b7484"/>']
    for value in np.arange(0, top, step):
        y = at(0, value)[1]
        body.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#eef0f4"/>')
        body.append(_text(left - 4, y + 4, f"{value:.3g}", "end"))
    every = max(1, -(-len(layers) // 8))
    body += [_text(at(place, 0)[0], height + 25, layer, "middle") for place, layer in enumerate(layers) if place % every == 0]
    body += [line(of_noise, "#000", "1 4", 1.2), line(floors, "#8a93a3", "", 4)]
    body += [_text(right, at(0, of_noise[-1])[1] - 5, "noise", "end"), _text(right, at(0, floors[-1])[1] - 6, "floor", "end")]
    for number, numbers in enumerate(values.values()):
        body.append(line(numbers, *style_of(number), 1.6))
        body += [mark(number, *at(place, value), 3) for place, value in enumerate(numbers)]
    return _svg(height + 34, "VisualDNA distance of every source in every layer", body)


def legend(names: Sequence[str], numbers: Sequence[int], *, target: bool) -> str:
    """The marks of the sources with their names, as HTML."""
    marks = [f'<svg class="key" viewBox="0 0 12 12" aria-hidden="true">{mark(number, 6, 6)}</svg>' for number in numbers]
    items = [f"<span>{shape}{html.escape(name)}</span>" for shape, name in zip(marks, names, strict=True)]
    if target:
        ring = '<circle cx="6" cy="6" r="4" fill="none" stroke="#000"/>'
        items.insert(0, f'<span><svg class="key" viewBox="0 0 12 12" aria-hidden="true">{ring}</svg>the target</span>')
    return f'<p class="legend">{"".join(items)}</p>'
