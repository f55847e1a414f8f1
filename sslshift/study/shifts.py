"""How far each candidate of a study is from the downstream images, by features that no single source has shaped."""

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sslshift.data.decode import Canvas
from sslshift.data.permutation import permute
from sslshift.data.sources import readable
from sslshift.models import ENCODER, PretrainedEncoder, load_encoder, save_encoder
from sslshift.models.opening import how_it_was_read, open_encoder
from sslshift.shift import NoiseSource, ShiftIndex, ShiftScale
from sslshift.shift.mixtures import blend
from sslshift.study.candidates import Candidate
from sslshift.study.declare import Study
from sslshift.study.judged import slug
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.training.loop import train
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, extract
from sslshift.transfer.tasks import Task

REFERENCE = "the study's own encoder, trained on an equal share of every candidate source"
# How noise and mixtures are drawn: an index of another way is measured anew.
DRAWN = 2


def measure_shifts(opened: Opened, out: Path, progress: Progress) -> dict[str, dict]:
    """The shift index of each candidate to the first task: fields of `ShiftIndex`, or nan and `why`."""
    return measure_task_shifts(opened, out, progress)[opened.task.name]


def measure_task_shifts(opened: Opened, out: Path, progress: Progress) -> dict[str, dict[str, dict]]:
    """The shift index by task and candidate: fields of `ShiftIndex`, or nan and `why`; what is known already is read.

    The target is a task's test split: a source that is the training split shares no image with it. A mixture's features are
    drawn from those of its sources in the proportions in which it shows them.
    """
    names = sorted({candidate.name for candidate in opened.candidates})
    if not opened.study.shift_images:
        unknown = {name: unknown_shift("--shift_images=0 asks for none") for name in names}
        return {task.name: unknown for task in opened.tasks}
    reference, place = reference_encoder(opened, out, progress)
    sampled = Features(opened, NetworkEncoder(reference), canvas=Canvas(*reference.shape))
    return {task.name: _to_task(opened, task, sampled, names, place, progress) for task in opened.tasks}


def reference_encoder(opened: Opened, out: Path, progress: Progress) -> tuple[PretrainedEncoder, Path]:
    """The encoder behind the index, and its folder: the one that is named, or one run on an equal share of every source.

    Raises:
      ValueError: what is named is no encoder, or does not take colours where there are some.
    """
    if opened.study.shift_encoder:
        encoder = open_encoder(opened.study.shift_encoder)
        if how_it_was_read(encoder):
            progress.note(how_it_was_read(encoder))
        return encoder, out / "shift" / f"{slug(encoder.card.get('name') or encoder.fingerprint)}-{encoder.fingerprint[:8]}"
    sources = {uri: source.fingerprint for uri, source in sorted(opened.sources.items())}
    record = opened.reference.record | {"mixture": "equal shares", "fingerprints": sources, "seed": 0}
    folder = out / "shift" / f"reference-{_digest(record)}"

    def compute() -> dict:
        steps = opened.budget.steps(opened.study.batch_size)
        with progress.run("reference encoder of the shift index", 1, 1, steps) as work:
            state = train(opened.reference.training, opened.reader(opened.equal_shares, 0, 0), 0, folder, work.on_step)
        card = {"name": REFERENCE, "sources": list(sources)}
        save_encoder(encoder_of(opened.reference.training.method, state.variables, opened.canvas, card), folder / ENCODER)
        return {}

    remembered(folder, record, compute)
    return load_encoder(folder / ENCODER), folder


def name_of_features(study: Study) -> str:
    """What stands behind a study's shift index, for people."""
    return f"the encoder of {Path(study.shift_encoder).name}" if study.shift_encoder else REFERENCE


class Features:
    """Features under one encoder of the images that distances are taken from, each source's extracted once, when asked for.

    Twice as many as a distance compares are drawn at random: its draws halve them. Images that cannot be read are left out,
    since a distance does not need these very images.
    """

    def __init__(self, opened: Opened, encode: Encoder, count: int | None = None, canvas: Canvas | None = None):
        self._opened = opened
        self._encode = encode
        self.canvas = canvas or opened.canvas
        self.count = 2 * opened.study.shift_images if count is None else count
        self.of_source = functools.cache(self._of_source)

    def _of_source(self, uri: str) -> np.ndarray:
        source = self._opened.sources[uri]
        return extract(self._encode, source, self._some(np.arange(len(source))), self.canvas).features

    def of_candidate(self, candidate: Candidate) -> np.ndarray:
        """Of a candidate's sources in the proportions in which it shows them, at most `count`."""
        shares = {uri: candidate.mixture.share_of(uri) for uri in candidate.mixture.largest}
        # As many images as of a single source: fewer of each.
        return blend({uri: self.of_source(uri) for uri in shares}, shares, most=self.count)

    def of_task(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Of a task's test images, and of noise with their pixel values."""
        source, indices = task.test
        chosen = readable(source, self._some(indices), self.canvas)
        noise = NoiseSource(source, chosen, self.canvas, 0)
        return tuple(
            extract(self._encode, each, indices, self.canvas).features
            for each, indices in ((source, chosen), (noise, np.arange(len(noise))))
        )

    def _some(self, indices: np.ndarray) -> np.ndarray:
        return indices[permute(np.arange(min(self.count, len(indices))), len(indices), 0)]


def _to_task(
    opened: Opened, task: Task, sampled: Features, names: list[str], place: Path, progress: Progress
) -> dict[str, dict]:
    distance = opened.study.shift_distance
    ends = functools.cache(lambda: ShiftScale(*sampled.of_task(task), jax.random.key(0), distance))
    target, indices = task.test
    about = {"by": distance, "features": name_of_features(opened.study)}
    shared = about | {"target": [target.fingerprint, len(indices)], "images": sampled.count, "canvas": sampled.canvas}
    shared["drawn"] = DRAWN
    found = {}
    for name in names:
        candidate = next(each for each in opened.candidates if each.name == name)
        record = shared | {"mixture": dataclasses.asdict(candidate.mixture) if candidate.text else name}
        folder = place / slug(task.name) / f"{slug(name)}-{_digest(record)}"
        found[name] = about | remembered(folder, record, lambda candidate=candidate: _index(ends, sampled, candidate))
        where = "" if len(opened.tasks) == 1 else f" to {task.name}"
        progress.say(f"shift index of {name}{where}", {"shift": found[name]["value"]})
    return found


def _index(ends, sampled: Features, candidate: Candidate) -> dict[str, Any]:
    features = sampled.of_candidate(candidate)
    try:
        return ends().index(features)._asdict() | {"dimensions": features.shape[1]}
    except ValueError as error:
        # Accuracies are worth having without a scale for the distance: the table says n/a and the report says why.
        return unknown_shift(str(error))


def unknown_shift(why: str) -> dict[str, Any]:
    return dict.fromkeys(ShiftIndex._fields, math.nan) | {"why": why}


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
