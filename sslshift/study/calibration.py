"""Calibration of the shift index: tests each distance and kind of features for stability, order and prediction of transfer."""

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from sslshift.clock import Clock
from sslshift.data.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.reporting import Table, csv_text
from sslshift.shards import LOCKS, editing
from sslshift.shift import ShiftIndex, ShiftScale, index_difference
from sslshift.shift.distances import INDEX_DISTANCES
from sslshift.stopping import Stop
from sslshift.storage import Store, write
from sslshift.study.cli import run
from sslshift.study.declare import Study
from sslshift.study.evaluate import untrained_encoder
from sslshift.study.opened import Opened, open_study
from sslshift.study.progress import Progress
from sslshift.study.results import Results
from sslshift.study.runner import read_results
from sslshift.study.shifts import DRAWN, CandidateFeatures, reference_encoders
from sslshift.transfer.features import Encoder, NetworkEncoder, pixel_encoder
from sslshift.transfer.inference.correlation import rank_correlation

SIZES = (200, 500, 1000, 2000, 5000)
# Images on each side of a series: enough to distinguish its levels, few enough for hundreds of indices.
_SERIES_IMAGES = 2000
_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CLASSES = (10, 7, 5, 3, 2, 1)
# Draws behind an interval. Other indices use more, but a calibration computes hundreds of them.
_REPEATS = 10
_HEAD = (
    "features",
    "distance",
    "200 to 2,000 images agree with 5,000",
    "largest difference",
    "blends: rising",
    *CORRUPTIONS,
    "fewer classes",
    "rank correlation with accuracy lost",
)


class Case(NamedTuple):
    """One measured index of a series.

    Attributes:
      part: name of the series.
      case: what varies within it, such as a kind of corruption.
      level: position in the series.
      images: number of images on each side of the distance.
      index: the index.
      seconds: time of the measurement.
    """

    part: str
    case: str
    level: float
    images: int
    index: ShiftIndex
    seconds: float

    @classmethod
    def of_result(cls, result: dict[str, Any]) -> "Case":
        """Returns the case in a `result.json`, see `as_result`."""
        return cls(**result | {"index": ShiftIndex(**result["index"])})

    def as_result(self) -> dict[str, Any]:
        """Returns the values that a `result.json` keeps."""
        return self._asdict() | {"index": self.index._asdict()}


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """All measurements of one distance on one kind of features."""

    features: str
    distance: str
    cases: tuple[Case, ...]

    def part(self, name: str, case: str | None = None) -> list[Case]:
        """Returns the cases of a series, or only those with one value of `Case.case`."""
        return [each for each in self.cases if each.part == name and case in (None, each.case)]


def run_calibration(study: Study, *, command: str = "", clock: Clock | None = None, stop: Stop | None = None) -> None:
    """Runs a study, then measures every distance on cases with a known answer; writes OUT/calibration.csv and .md.

    The target is the test split of the study's first task. The study's sources (not its mixtures) are blended and counted. The
    first source, which should resemble the target, is corrupted.

    Args:
      study: the declaration.
      command, clock, stop: see `sslshift.study.cli.run`.
    """
    run(study, command=command, clock=clock, stop=stop)
    progress = Progress(clock=clock, stop=stop)
    opened = open_study(study)
    results = read_results(opened)
    if results.missing:
        progress.note("The calibration follows when the last shard has finished its runs.")
        return
    out = opened.design.out
    store = Store(locks=out / LOCKS, note=progress.note)
    found: list[Calibrated] = []
    for name, encode in _encoders(opened, store, progress).items():
        # Cached and called on demand, so that a finished calibration extracts no features.
        features = functools.cache(functools.partial(_SeriesFeatures, opened, encode))
        for distance in INDEX_DISTANCES:
            folder = out / "calibration" / f"{name.replace(' ', '_')}-{distance}-drawn{DRAWN}"
            record = {"features": encode.fingerprint, "distance": distance, "sizes": SIZES, "sources": list(opened.sources)}
            result = store.remembered(folder, record, functools.partial(_measured, opened, features, distance))
            cases = tuple(Case.of_result(each) for each in result["lines"])
            found.append(Calibrated(name, distance, cases))
            progress.note(f"{name}, {distance}: {sum(each.seconds for each in cases):.0f} s")
            # Written after each distance, so that an interrupted calibration keeps its results.
            with editing(out):
                write(out / "calibration.csv", _csv(found))
                write(out / "calibration.md", _table(found, results).markdown)
    progress.note((out / "calibration.md").read_text())


def _encoders(opened: Opened, store: Store, progress: Progress) -> dict[str, Encoder]:
    # One encoder suffices to compare distances; the index of a study is the mean over several.
    reference = reference_encoders(opened, store, progress)[0].encoder
    untrained = untrained_encoder(opened, opened.reference, 0)
    return {"raw pixels": pixel_encoder, "untrained encoder": untrained, "trained on equal shares": NetworkEncoder(reference)}


class _SeriesFeatures:
    """Features of all images that the series compare, under one encoder; each is computed once."""

    def __init__(self, opened: Opened, encode: Encoder):
        self.opened = opened
        self.encode = encode
        self.candidates = CandidateFeatures(opened, encode, count=SIZES[-1])
        self.target, self.noise = self.candidates.of_task(opened.task)

    def scale(self, distance: str, rows: slice) -> ShiftScale:
        """Returns the scale of a distance on some of the target's images."""
        return ShiftScale(self.target[rows], self.noise[rows], jax.random.key(0), distance, repeats=_REPEATS)

    @functools.cached_property
    def corruptions(self) -> dict[tuple[str, int], np.ndarray]:
        """Features of the first source's images, by kind and severity of their corruption."""
        source = next(iter(self.opened.sources.values()))
        indices = permute(np.arange(min(_SERIES_IMAGES, len(source))), len(source), 0)
        images = source.read(readable(source, indices, self.opened.canvas), self.opened.canvas)
        key = jax.random.key(3)
        return {
            (kind, severity): self.encode(corrupted(images, kind, severity, key=jax.random.fold_in(key, severity)))
            for kind in CORRUPTIONS
            for severity in (0, *SEVERITIES)
        }

    def classes(self, count: int) -> np.ndarray | None:
        """Returns features of the first source's images of its first classes; None if it has no classes.

        All subsets have the number of images of the smallest class, so that only the number of classes differs.
        """
        source = next(iter(self.opened.sources.values()))
        if source.labels is None or source.labels.ndim != 1:
            return None
        known = np.unique(source.labels)
        least = min(int((source.labels == label).sum()) for label in known)
        places = np.flatnonzero(np.isin(source.labels, known[:count]))
        chosen = places[permute(np.arange(min(_SERIES_IMAGES, least)), len(places), 1)]
        return self.encode(source.read(readable(source, chosen, self.opened.canvas), self.opened.canvas))


# A case of a series, its level, its number of images, and its index.
_Measurement = tuple[str, float, int, ShiftIndex]


def _measured(opened: Opened, features: Callable[[], _SeriesFeatures], distance: str) -> dict[str, Any]:
    found = []
    for name, series in _SERIES.items():
        started = time.monotonic()
        for case, level, images, index in series(opened, features(), distance):
            seconds = round(time.monotonic() - started, 2)
            started = time.monotonic()
            found.append(Case(name, case, level, images, index, seconds).as_result())
    return {"lines": found}


def _sizes(opened: Opened, features: _SeriesFeatures, distance: str) -> Iterator[_Measurement]:
    """Yields every source at every number of images, up to three times on different images."""
    scales = functools.cache(lambda start, stop: features.scale(distance, slice(start, stop)))
    for uri, size in itertools.product(opened.sources, SIZES):
        own = features.candidates.of_source(uri)
        # A source with fewer images than a size is measured once, on all its images.
        images = min(size, len(own), len(features.target))
        for draw in range(min(3, min(len(own), len(features.target)) // images) if images == size else 1):
            rows = slice(draw * images, (draw + 1) * images)
            yield uri, draw, images, scales(rows.start, rows.stop).index(own[rows])


def _blends(opened: Opened, features: _SeriesFeatures, distance: str) -> Iterator[_Measurement]:
    """Yields the first source with a growing share of another one."""
    scale = features.scale(distance, slice(_SERIES_IMAGES))
    near, *others = opened.sources
    for other, level in itertools.product(others, _LEVELS):
        parts = [features.candidates.of_source(uri) for uri in (near, other)]
        count = min(_SERIES_IMAGES, *map(len, parts))
        replaced = round(count * level)
        yield other, level, count, scale.index(np.concatenate([parts[0][: count - replaced], parts[1][:replaced]]))


def _corruptions(opened: Opened, features: _SeriesFeatures, distance: str) -> Iterator[_Measurement]:
    """Yields the first source's images at growing severities of each corruption."""
    scale = features.scale(distance, slice(_SERIES_IMAGES))
    for (kind, severity), own in features.corruptions.items():
        yield kind, severity, len(own), scale.index(own)


def _class_subsets(opened: Opened, features: _SeriesFeatures, distance: str) -> Iterator[_Measurement]:
    """Yields the first source's images of fewer and fewer classes, the same number of images each time."""
    scale = features.scale(distance, slice(_SERIES_IMAGES))
    for count in _CLASSES:
        own = features.classes(count)
        if own is not None:
            yield "classes", count, len(own), scale.index(own)


def _candidates(opened: Opened, features: _SeriesFeatures, distance: str) -> Iterator[_Measurement]:
    """Yields every candidate of the study."""
    images = 2 * opened.design.shift.images or SIZES[-1]
    scale = features.scale(distance, slice(images))
    for candidate in opened.candidates:
        # All features of a candidate, because the scale draws from them.
        index = scale.index(features.candidates.of_candidate(candidate))
        yield candidate.name, candidate.unique, 2 * index.sample_size, index


# Finished calibrations keep results in this order; the names are those in calibration.csv.
_SERIES: dict[str, Callable[[Opened, _SeriesFeatures, str], Iterable[_Measurement]]] = {
    "sizes": _sizes,
    "blends": _blends,
    "corruptions": _corruptions,
    "class_subsets": _class_subsets,
    "candidates": _candidates,
}


class Agreement(NamedTuple):
    """Agreement of indices of fewer images with the index of the most images.

    Attributes:
      agreeing: number of indices that agree.
      of: number of indices.
      largest: largest difference of any index.
    """

    agreeing: int
    of: int
    largest: float

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(self.agreeing + other.agreeing, self.of + other.of, max(self.largest, other.largest))


def agreement(fewer: Sequence[ShiftIndex], most: ShiftIndex) -> Agreement:
    """Returns the number of indices at fewer images that equal the index at the most images, within both 95% intervals.

    Example:
      >>> at = lambda value: ShiftIndex(value, value - 0.1, value + 0.1, 0, 0, 0, 100, 20)
      >>> agreement([at(0.5), at(0.8)], at(0.6))
      Agreement(agreeing=1, of=2, largest=0.2)
    """
    differences = [abs(each.value - most.value) for each in fewer]
    # Errors of two independent measurements add in quadrature.
    within = [np.hypot(each.high - each.value, most.high - most.value) for each in fewer]
    agreeing = sum(difference <= width for difference, width in zip(differences, within, strict=True))
    # Rounded, so that results that are equal up to rounding print equally.
    return Agreement(int(agreeing), len(fewer), round(float(max(differences)), 12))


class Steps(NamedTuple):
    """Steps of a series that should rise.

    Attributes:
      rising: number of steps that rise.
      falling: number of steps that fall by more than chance (paired, 95%).
      of: number of steps.
    """

    rising: int
    falling: int
    of: int

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(*(a + b for a, b in zip(self, other, strict=True)))


def steps(series: Sequence[ShiftIndex]) -> Steps:
    """Returns the steps of a series that should rise, such as corruptions of increasing severity; all on one `ShiftScale`."""
    differences = [index_difference(after, before) for before, after in itertools.pairwise(series)]
    return Steps(sum(each.value > 0 for each in differences), sum(each.high < 0 for each in differences), len(differences))


def _csv(found: Sequence[Calibrated]) -> str:
    head = ("features", "distance", "part", "case", "level", "images", "value", "low", "high", "seconds")
    lines = [
        (own.features, own.distance, each.part, each.case, each.level, each.images, *each.index[:3], each.seconds)
        for own in found
        for each in own.cases
    ]
    return csv_text(head, lines)


def _table(found: Sequence[Calibrated], results: Results) -> Table:
    return Table("calibration", "Calibration of the shift index", _HEAD, [_line(own, results) for own in found], text_columns=2)


def _line(own: Calibrated, results: Results) -> list[str]:
    stable = _agreement(own.part("sizes"))
    return [
        own.features,
        own.distance,
        f"{stable.agreeing} of {stable.of}" if stable else "n/a",
        f"{stable.largest:.2f}" if stable else "n/a",
        _rising(own.part("blends")),
        *(_rising(own.part("corruptions", kind)) for kind in CORRUPTIONS),
        _rising(own.part("class_subsets")),
        _prediction(own.part("candidates"), results),
    ]


def _by_case(cases: Sequence[Case]) -> list[list[Case]]:
    found: dict[str, list[Case]] = {}
    for each in cases:
        found.setdefault(each.case, []).append(each)
    return list(found.values())


def _agreement(cases: Sequence[Case]) -> Agreement | None:
    found = []
    for own in _by_case(cases):
        *fewer, most = sorted(own, key=lambda each: each.images)
        found.append(agreement([each.index for each in fewer], most.index))
    return functools.reduce(lambda a, b: a + b, found) if found else None


def _rising(cases: Sequence[Case]) -> str:
    found = [steps([each.index for each in own]) for own in _by_case(cases)]
    if not found:
        return "n/a"
    total = functools.reduce(lambda a, b: a + b, found)
    return f"{total.rising} of {total.of}" + (f" ({total.falling} fall)" if total.falling else "")


def _prediction(cases: Sequence[Case], results: Results) -> str:
    losses = _losses(results)
    known = [each for each in cases if (each.case, each.level) in losses]
    # With three candidates, the rank correlation has too few possible values to show anything.
    if len(known) < 4:
        return "n/a"
    values = np.array([each.index.value for each in known])
    found = rank_correlation(values, np.array([losses[each.case, each.level] for each in known]))
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _losses(results: Results) -> dict[tuple[str, int], list[float]]:
    """Returns the linear accuracy that each candidate loses against the best one on average, by seed."""
    task = results.opened.task.name
    scores: dict[tuple[str, int], list[float]] = {}
    for each in results.runs:
        scores.setdefault((each.run.source, each.run.unique), []).append(each.evaluated.scores[task].linear)
    whole = {name: values for name, values in scores.items() if len(values) == results.opened.design.seeds}
    best = max((float(np.mean(values)) for values in whole.values()), default=math.nan)
    return {name: [best - value for value in values] for name, values in whole.items()}
