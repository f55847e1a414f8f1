"""Shift indices of a study's candidates, on features of encoders that are trained on all sources equally.

An encoder sees only some of what distinguishes two sources, and which part depends on its training seed. The index is therefore
the mean over several reference encoders, whose scatter is part of its interval.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from sslshift.clock import TRAINING
from sslshift.data.decode import Canvas
from sslshift.data.permutation import permute
from sslshift.data.sources import Source, readable
from sslshift.models import ENCODER, PretrainedEncoder, load_encoder, save_encoder
from sslshift.models.opening import how_it_was_read, open_encoder
from sslshift.shift import NoiseSource, ShiftIndex, ShiftScale
from sslshift.shift.index import FAR_ENDS, NOISE
from sslshift.shift.mixtures import blend
from sslshift.storage import NotStoredError, Store, digest, slug
from sslshift.study.candidates import Candidate, named_text
from sslshift.study.design import ShiftSettings
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.training.loop import train
from sslshift.transfer.extraction import extract
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of
from sslshift.transfer.inference import Bootstrapped, estimate_mean
from sslshift.transfer.tasks import Task

REFERENCE = "the study's own encoder, trained on an equal share of every candidate source"
# Reason why an unfinished study has no index.
NOT_MEASURED = "It is not measured yet"
# Version of the draws of noise and mixtures: indices of other versions are measured again.
DRAWN = 4


@dataclasses.dataclass(frozen=True)
class MeasuredShift:
    """Shift index of a candidate to a task.

    Attributes:
      index: the index with its interval; all nan if there is no index.
      why: sentence with the reason why there is no index; empty if there is an index.
      dimensions: number of dimensions of the features; 0 if there is no index.
      by_encoder: the index by each reference encoder, in the order of their seeds; empty if there is no index.
    """

    index: ShiftIndex
    why: str = ""
    dimensions: int = 0
    by_encoder: tuple[float, ...] = ()

    @classmethod
    def unknown(cls, why: str) -> "MeasuredShift":
        """Returns a shift that was not measured."""
        return cls(ShiftIndex(*[math.nan] * len(ShiftIndex._fields)), why)

    @classmethod
    def of_result(cls, result: dict[str, Any]) -> "MeasuredShift":
        """Returns the shift in a `result.json`, see `as_result`."""
        index = ShiftIndex(**{name: result[name] for name in ShiftIndex._fields})
        why = result.get("why", "")
        return cls(index, why, result.get("dimensions", 0), () if why else tuple(result.get("by_encoder", [index.value])))

    @classmethod
    def mean(cls, each: Sequence["MeasuredShift"]) -> "MeasuredShift":
        """Returns the mean over encoders, with the first reason why one of them has no index.

        The interval covers the choice of encoders and of images. Encoders compare the same images, draw by draw.
        """
        without = next((one for one in each if one.why), None)
        if without or len(each) == 1:
            return without or each[0]
        indices = [one.index for one in each]
        values = np.array([index.value for index in indices]).reshape(-1, 1, 1)
        # Replicates over images; the pairs of draws are their degrees of freedom.
        replicates = np.stack([index.draws for index in indices], axis=1)[..., None, None]
        found = estimate_mean(Bootstrapped(values, replicates), indices[0].repeats // 2 + 1)
        distances = (float(np.mean([getattr(index, name) for index in indices])) for name in ("distance", "floor", "ceiling"))
        draws = tuple(replicates.mean(axis=(1, 2, 3)).tolist())
        index = ShiftIndex(*found[:3], *distances, *indices[0][6:8], draws)
        return cls(index, dimensions=each[0].dimensions, by_encoder=tuple(index.value for index in indices))

    def as_result(self) -> dict[str, Any]:
        """Returns the values that a `result.json` keeps."""
        more = {"dimensions": self.dimensions, "by_encoder": list(self.by_encoder)}
        return self.index._asdict() | ({"why": self.why} if self.why else more)

    @property
    def value(self) -> float:
        """The index; nan if there is no index."""
        return self.index.value

    @property
    def order(self) -> float:
        """Sort key: near sources come first, and sources without an index last."""
        return math.inf if math.isnan(self.value) else self.value


# By task, then by candidate.
TaskShifts = dict[str, dict[str, MeasuredShift]]


def measure_shifts(opened: Opened, store: Store, progress: Progress) -> TaskShifts:
    """Returns the shift index of every candidate to every task; measures indices that are missing in the study's folder.

    The target is the test split of a task, so that a source can be its training split without sharing images. The features of
    a mixture are drawn from the features of its sources in the proportions of the mixture.
    """
    # A source has one index for all its numbers of unique samples.
    names = sorted({candidate.name for candidate in opened.candidates})
    if not opened.design.shift.images:
        return all_unknown(opened, "--shift_images=0 asks for none")
    found = []
    for reference in reference_encoders(opened, store, progress):
        encoder = reference.encoder
        # An encoder of the study's own takes its images, grey ones too if it continues from an encoder of colour images.
        canvas = Canvas(*encoder.shape) if opened.design.shift.encoder else opened.canvas
        features = CandidateFeatures(opened, NetworkEncoder(encoder), canvas=canvas)
        found.append({task.name: _to_task(opened, store, task, features, names, reference.folder) for task in opened.tasks})
    means = {
        task.name: {name: MeasuredShift.mean([each[task.name][name] for each in found]) for name in names}
        for task in opened.tasks
    }
    for task, shifts in means.items():
        where = "" if len(means) == 1 else f" to {task}"
        for name, shift in shifts.items():
            progress.say_shift(f"shift index of {named_text(name, opened.names)}{where}", shift.value)
    return means


def all_unknown(opened: Opened, why: str) -> TaskShifts:
    """Returns unknown shifts, all for the same reason."""
    unknown = {candidate.name: MeasuredShift.unknown(why) for candidate in opened.candidates}
    return {task.name: unknown for task in opened.tasks}


def read_shifts(opened: Opened, store: Store, progress: Progress) -> TaskShifts:
    """Returns the shift indices in a study's folder, from a read-only store."""
    try:
        return measure_shifts(opened, store, progress)
    except NotStoredError:
        return all_unknown(opened, NOT_MEASURED)


class Reference(NamedTuple):
    """An encoder behind the index, and its folder, which also keeps the indices by this encoder."""

    encoder: PretrainedEncoder
    folder: Path


def reference_encoders(opened: Opened, store: Store, progress: Progress) -> list[Reference]:
    """Returns the encoders behind the index.

    It is the encoder that the study names, or encoders of several seeds, each trained on an equal share of every source.
    Together they see as many samples as one run.

    Raises:
      NotStoredError: an encoder is not trained yet, and the store is read only.
      ValueError: the named file holds no encoder, or the encoder takes grey images and the study has colours.
    """
    if opened.design.shift.encoder:
        encoder = open_encoder(opened.design.shift.encoder)
        if how_it_was_read(encoder):
            progress.note(how_it_was_read(encoder))
        name = f"{slug(encoder.card.get('name') or encoder.fingerprint)}-{encoder.fingerprint[:8]}"
        return [Reference(encoder, opened.design.out / "shift" / name)]
    return [trained_reference(opened, store, progress, seed) for seed in range(opened.design.shift.seeds)]


def reference_record(opened: Opened, seed: int) -> dict[str, Any]:
    """Returns everything that a reference encoder of the study's own depends on."""
    # Sorted, so that the order of --sources does not change the encoder.
    sources = {uri: source.fingerprint for uri, source in sorted(opened.sources.items())}
    return opened.reference.record | {"mixture": "equal shares", "fingerprints": sources, "seed": seed}


def reference_folder(opened: Opened, seed: int) -> Path:
    """Returns the folder of a reference encoder of the study's own."""
    return opened.design.out / "shift" / f"reference-{digest(reference_record(opened, seed))}"


def trained_reference(opened: Opened, store: Store, progress: Progress, seed: int) -> Reference:
    """Returns a reference encoder of the study's own; trains it if the study's folder does not have it.

    Raises:
      NotStoredError: the encoder is not trained yet, and the store is read only.
    """
    folder = reference_folder(opened, seed)
    record = reference_record(opened, seed)

    def compute() -> dict[str, Any]:
        learner = opened.reference
        what = f"reference encoder {seed + 1}/{opened.design.shift.seeds} of the shift index"
        # The part of the clock around it is that of measuring shifts.
        with progress.training(what, learner.steps) as work, progress.clock.part(TRAINING):
            reader = opened.reader(opened.equal_shares, seed, seed, learner.budget)
            on_step = learner.counted(progress.clock, work.on_step)
            watched = dataclasses.replace(opened.observation, tensorboard=False, profiler=None)
            state = train(learner.training, reader, seed, folder, on_step, stop=progress.stop, observation=watched)
        card = {"name": REFERENCE, "sources": list(record["fingerprints"]), "seed": seed}
        save_encoder(encoder_of(learner.training.method, state.variables, opened.canvas, card), folder / ENCODER)
        return {}

    store.remembered(folder, record, compute)
    return Reference(load_encoder(folder / ENCODER), folder)


def name_of_features(settings: ShiftSettings) -> str:
    """Returns a readable name of the encoders behind a study's shift index."""
    if settings.encoder:
        return f"the encoder of {Path(settings.encoder).name}"
    if settings.seeds == 1:
        return REFERENCE
    return f"{settings.seeds} encoders of the study's own, each trained on an equal share of every candidate source"


def far_end_text(settings: ShiftSettings) -> str:
    """Returns what an index of 1 means, in words about a study's task.

    Example:
      >>> far_end_text(ShiftSettings(2000, "kernel_root", "separation", "", 4))
      'complete separation from the downstream images'
    """
    return FAR_ENDS[settings.far_end].replace("the target", "the downstream images")


def seen_by(settings: ShiftSettings) -> str:
    """Returns the words that belong beside an index: which encoders it is valid for.

    Example:
      >>> seen_by(ShiftSettings(2000, "kernel_root", "separation", "", 4))
      'over 4 reference encoders'
      >>> seen_by(ShiftSettings(2000, "kernel_root", "separation", "dino.npz", 0))
      'as this encoder sees it'
    """
    return f"over {settings.seeds} reference encoders" if settings.seeds > 1 else "as this encoder sees it"


class CandidateFeatures:
    """Features of the images that distances compare, under one encoder. They are extracted once per source, on first use.

    Images are drawn at random, twice the number that a distance compares, because its draws use halves. Unreadable images are
    excluded, because a distance only needs a random sample.

    Args:
      opened: the study.
      encode: function from images to features.
      count: largest number of images of each source; None: twice the number of the shift index.
      canvas: shape of the images; None: the canvas of the study.
    """

    def __init__(self, opened: Opened, encode: Encoder, count: int | None = None, canvas: Canvas | None = None):
        self._opened = opened
        self._encode = encode
        self.canvas = canvas or opened.canvas
        self.count = 2 * opened.design.shift.images if count is None else count
        self._of_source: dict[str, np.ndarray] = {}

    def of_source(self, uri: str) -> np.ndarray:
        """Returns the features of a source's images, float32 `[n, dim]`."""
        if uri not in self._of_source:
            source = self._opened.sources[uri]
            indices = self._some(np.arange(len(source)))
            self._of_source[uri] = self._extracted(source, indices)
        return self._of_source[uri]

    def of_candidate(self, candidate: Candidate) -> np.ndarray:
        """Returns at most `count` features of a candidate's sources, in the proportions of the candidate."""
        shares = {uri: candidate.mixture.share_of(uri) for uri in candidate.mixture.largest}
        # The number of images is that of a single source, so that indices of mixtures and sources are comparable.
        return blend({uri: self.of_source(uri) for uri in shares}, shares, most=self.count)

    def of_task(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Returns features of a task's test images, and of noise with their pixel values."""
        source, indices = task.test
        chosen = readable(source, self._some(indices), self.canvas)
        noise = NoiseSource(source, chosen, self.canvas, 0)
        return self._extracted(source, chosen), self._extracted(noise, np.arange(len(noise)))

    def _extracted(self, source: Source, indices: np.ndarray) -> np.ndarray:
        # Distances are computed in float64 on the host.
        return jax.device_get(extract(self._encode, source, indices, self.canvas).features)

    def _some(self, indices: np.ndarray) -> np.ndarray:
        return indices[permute(np.arange(min(self.count, len(indices))), len(indices), 0)]


def _to_task(
    opened: Opened,
    store: Store,
    task: Task,
    features: CandidateFeatures,
    names: list[str],
    place: Path,
) -> dict[str, MeasuredShift]:
    settings = opened.design.shift
    # Cached and called on demand, so that a finished study extracts no features.
    scale = functools.cache(
        lambda: ShiftScale(*features.of_task(task), jax.random.key(0), settings.distance, far_end=settings.far_end)
    )
    target, indices = task.test
    shared = {
        "by": settings.distance,
        "features": name_of_features(settings) if settings.encoder else REFERENCE,
        "target": [target.fingerprint, len(indices)],
        "images": features.count,
        "canvas": features.canvas,
        "drawn": DRAWN,
    }
    if settings.far_end != NOISE:
        # Indices of earlier versions have noise as their far end, and no such entry.
        shared["far_end"] = settings.far_end
    found = {}
    for name in names:
        candidate = next(each for each in opened.candidates if each.name == name)
        record = shared | {"mixture": dataclasses.asdict(candidate.mixture) if candidate.text else name}
        folder = place / slug(task.name) / f"{slug(name)}-{digest(record)}"
        compute = functools.partial(_measured, scale, features, candidate)
        found[name] = MeasuredShift.of_result(store.remembered(folder, record, compute))
    return found


def _measured(scale: Callable[[], ShiftScale], features: CandidateFeatures, candidate: Candidate) -> dict[str, Any]:
    array = features.of_candidate(candidate)
    try:
        index = scale().index(array)
        return MeasuredShift(index, dimensions=array.shape[1], by_encoder=(index.value,)).as_result()
    except ValueError as error:
        # A study is useful without an index: the table shows n/a, and the report gives the reason.
        return MeasuredShift.unknown(str(error)).as_result()
