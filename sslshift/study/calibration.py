"""Calibrates the shift index: which distance, on which features, is steady, rises where it must, and predicts transfer?"""

import csv
import functools
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sslshift.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.shift import DISTANCES, ShiftIndex, ShiftScale
from sslshift.shift.index import agreement, rank_correlation, steps
from sslshift.study.commands import run
from sslshift.study.declare import Study
from sslshift.study.floors import untrained_encoder
from sslshift.study.opened import Opened, open_study
from sslshift.study.progress import Progress
from sslshift.study.records import remembered, write_atomically
from sslshift.study.results import Results
from sslshift.study.runner import read_results
from sslshift.study.shifts import DRAWN, Features, reference_encoder
from sslshift.transfer.features import Encoder, NetworkEncoder, pixel_encoder

SIZES = (200, 500, 1000, 2000, 5000)
# Images of either side, enough to tell the steps of a series apart.
_SERIES_IMAGES = 2000
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CLASSES = (10, 7, 5, 3, 2, 1)
# Draws behind an interval: an index for practice has more, but here are hundreds of indices.
_REPEATS = 10
_COLUMNS = ("features", "distance", "part", "case", "level", "images", "value", "low", "high", "seconds")
_HEAD = (
    "features",
    "distance",
    "200 to 2,000 images agree with 5,000",
    "largest difference",
    "blends: rising",
    "blur",
    "noise",
    "contrast",
    "fewer classes",
    "rank correlation with accuracy lost",
)


def run_calibration(study: Study) -> None:
    """Runs a study, and then asks of every distance on several features what is known to be true; writes OUT/calibration.*.

    Its first task's test images are the target. Its sources (not its mixtures) are what is blended and counted; the first of
    them is the one that is made worse, which should be of the target's kind.
    """
    run(study)
    progress = Progress()
    opened = open_study(study)
    results = read_results(opened)
    lines: list[dict[str, Any]] = []
    for name, encode in _encoders(opened, progress).items():
        sampled = functools.cache(functools.partial(_Sampled, opened, encode))
        for distance in DISTANCES:
            folder = Path(study.out) / "calibration" / f"{name.replace(' ', '_')}-{distance}-drawn{DRAWN}"
            record = {"features": encode.fingerprint, "distance": distance, "sizes": SIZES, "sources": list(opened.sources)}
            found = remembered(folder, record, lambda distance=distance, made=sampled: _measured(opened, made(), distance))[
                "lines"
            ]
            lines += [{"features": name, "distance": distance} | line for line in found]
            progress.note(f"{name}, {distance}: {sum(line['seconds'] for line in found):.0f} s")
            # What is known so far, should the rest be interrupted.
            _write(Path(study.out), lines, results)
    progress.note((Path(study.out) / "calibration.md").read_text())


def _encoders(opened: Opened, progress: Progress) -> dict[str, Encoder]:
    reference, _ = reference_encoder(opened, Path(opened.study.out), progress)
    untrained = untrained_encoder(opened, opened.reference, 0)
    return {"raw pixels": pixel_encoder, "untrained encoder": untrained, "trained on equal shares": NetworkEncoder(reference)}


class _Sampled:
    """Features under one encoder of all that is asked about, each computed once."""

    def __init__(self, opened: Opened, encode: Encoder):
        self.opened = opened
        self.encode = encode
        self.features = Features(opened, encode, count=SIZES[-1])
        self.target, self.noise = self.features.of_task(opened.task)

    @functools.cached_property
    def near(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Images of the first source and their labels."""
        source = next(iter(self.opened.sources.values()))
        indices = permute(np.arange(min(_SERIES_IMAGES, len(source))), len(source), 0)
        indices = readable(source, indices, self.opened.canvas)
        return source.read(indices, self.opened.canvas), None if source.labels is None else source.labels[indices]

    @functools.cached_property
    def corruptions(self) -> dict[tuple[str, int], np.ndarray]:
        images, _ = self.near
        key = jax.random.key(3)
        return {
            (kind, severity): self.encode(corrupted(images, kind, severity, key=jax.random.fold_in(key, severity)))
            for kind in CORRUPTIONS
            for severity in (0, *SEVERITIES)
        }

    def classes(self, count: int) -> np.ndarray | None:
        """Features of the first source's images of its first classes, as many as there are images of one of them."""
        source = next(iter(self.opened.sources.values()))
        if source.labels is None or source.labels.ndim != 1:
            return None
        known = np.unique(source.labels)
        least = min(int((source.labels == label).sum()) for label in known)
        places = np.flatnonzero(np.isin(source.labels, known[:count]))
        chosen = places[permute(np.arange(min(_SERIES_IMAGES, least)), len(places), 1)]
        return self.encode(source.read(readable(source, chosen, self.opened.canvas), self.opened.canvas))


def _measured(opened: Opened, sampled: _Sampled, distance: str) -> dict:
    lines = []
    parts: tuple[Callable[..., Iterator[tuple]], ...] = (_sizes, _blends, _corruptions, _class_subsets, _candidates)
    for part in parts:
        started = time.monotonic()
        for case, level, images, index in part(opened, sampled, distance):
            seconds = time.monotonic() - started
            started = time.monotonic()
            place = {"part": part.__name__.strip("_"), "case": case, "level": level, "images": images}
            lines.append(place | {"index": index._asdict(), "seconds": round(seconds, 2)})
    return {"lines": lines}


def _scale(sampled: _Sampled, distance: str, rows: slice) -> ShiftScale:
    return ShiftScale(sampled.target[rows], sampled.noise[rows], jax.random.key(0), distance, repeats=_REPEATS)


def _sizes(opened: Opened, sampled: _Sampled, distance: str):
    """Every source at every number of images, up to three times on other images."""
    scales = functools.cache(lambda start, stop: _scale(sampled, distance, slice(start, stop)))
    for uri, size in itertools.product(opened.sources, SIZES):
        features = sampled.features.of_source(uri)
        # A source of fewer images than the most is asked at all it has.
        images = min(size, len(features), len(sampled.target))
        for draw in range(min(3, min(len(features), len(sampled.target)) // images) if images == size else 1):
            rows = slice(draw * images, (draw + 1) * images)
            yield uri, draw, images, scales(rows.start, rows.stop).index(features[rows])


def _blends(opened: Opened, sampled: _Sampled, distance: str):
    """The first source, more and more of which is another one."""
    scale, (near, *others) = _scale(sampled, distance, slice(_SERIES_IMAGES)), list(opened.sources)
    for other, level in itertools.product(others, _LEVELS):
        parts = [sampled.features.of_source(uri) for uri in (near, other)]
        count = min(_SERIES_IMAGES, *map(len, parts))
        replaced = round(count * level)
        yield other, level, count, scale.index(np.concatenate([parts[0][: count - replaced], parts[1][:replaced]]))


def _corruptions(opened: Opened, sampled: _Sampled, distance: str):
    """The first source's images, ever worse."""
    scale = _scale(sampled, distance, slice(_SERIES_IMAGES))
    for (kind, severity), features in sampled.corruptions.items():
        yield kind, severity, len(features), scale.index(features)


def _class_subsets(opened: Opened, sampled: _Sampled, distance: str):
    """The first source's images of ever fewer classes, equally many."""
    scale = _scale(sampled, distance, slice(_SERIES_IMAGES))
    for count in _CLASSES:
        features = sampled.classes(count)
        if features is not None:
            yield "classes", count, len(features), scale.index(features)


def _candidates(opened: Opened, sampled: _Sampled, distance: str):
    """What was trained on."""
    images = 2 * opened.study.shift_images or SIZES[-1]
    scale = _scale(sampled, distance, slice(images))
    for candidate in opened.candidates:
        # All that there are: the scale draws from them.
        index = scale.index(sampled.features.of_candidate(candidate))
        yield candidate.name, candidate.unique, 2 * index.sample_size, index


def _write(out: Path, lines: list[dict], results: Results) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(line | {name: line["index"][name] for name in ("value", "low", "high")} for line in lines)
    write_atomically(out / "calibration.csv", text.getvalue())
    by_kind: dict[tuple[str, str], list[dict]] = {}
    for line in lines:
        by_kind.setdefault((line["features"], line["distance"]), []).append(line)
    table = [_HEAD, ["---"] * len(_HEAD), *(_row(*kind, own, results) for kind, own in by_kind.items())]
    write_atomically(out / "calibration.md", "".join(f"| {' | '.join(row)} |\n" for row in table))


def _row(features: str, distance: str, lines: list[dict], results: Results) -> list[str]:
    by_part: dict[str, list[dict]] = {}
    for line in lines:
        by_part.setdefault(line["part"], []).append(line)
    stable = _agreements(by_part.get("sizes", []))
    blends = _series(by_part.get("blends", []))
    worse = {kind: _series([line for line in by_part.get("corruptions", []) if line["case"] == kind]) for kind in CORRUPTIONS}
    return [
        features,
        distance,
        f"{stable.agreeing} of {stable.of}" if stable else "n/a",
        f"{stable.largest:.2f}" if stable else "n/a",
        blends,
        *worse.values(),
        _series(by_part.get("class_subsets", [])),
        _predicts(by_part.get("candidates", []), results),
    ]


def _agreements(lines: list[dict]):
    cases: dict[str, list[dict]] = {}
    for line in lines:
        cases.setdefault(line["case"], []).append(line)
    found = []
    for own in cases.values():
        *fewer, most = sorted(own, key=lambda line: line["images"])
        found.append(agreement([_index(line) for line in fewer], _index(most)))
    return functools.reduce(lambda a, b: a + b, found) if found else None


def _series(lines: list[dict]) -> str:
    cases: dict[str, list[ShiftIndex]] = {}
    for line in lines:
        cases.setdefault(line["case"], []).append(_index(line))
    if not cases:
        return "n/a"
    total = functools.reduce(lambda a, b: a + b, (steps(series) for series in cases.values()))
    return f"{total.rising} of {total.of}" + (f" ({total.falling} fall)" if total.falling else "")


def _predicts(lines: list[dict], results: Results) -> str:
    losses = _losses(results)
    known = [line for line in lines if (line["case"], line["level"]) in losses]
    if len(known) < 4:
        return "n/a"
    values = np.array([line["index"]["value"] for line in known])
    found = rank_correlation(values, np.array([losses[line["case"], line["level"]] for line in known]))
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _losses(results: Results) -> dict[tuple[str, int], list[float]]:
    """Linear accuracy that each candidate loses against the best one on average, by seed."""
    task = results.opened.task.name
    seeds = results.opened.study.seeds
    scores: dict[tuple[str, int], list[float]] = {}
    for run_, judged in results.runs:
        scores.setdefault((run_.source, run_.unique), []).append(judged.scores[task]["linear"])
    whole = {name: values for name, values in scores.items() if len(values) == seeds}
    best = max((float(np.mean(values)) for values in whole.values()), default=math.nan)
    return {name: [best - value for value in values] for name, values in whole.items()}


def _index(line: dict) -> ShiftIndex:
    return ShiftIndex(**line["index"])
