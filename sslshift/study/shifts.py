"""How far each candidate of a study is from the downstream images, by features that no single source has shaped."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np

from sslshift.data.decode import BrokenImageError
from sslshift.data.mixture import apportion
from sslshift.data.permutation import permute
from sslshift.data.sources import Source, readable
from sslshift.shift import ShiftIndex, noise_like, shift_index
from sslshift.study.opened import Opened
from sslshift.study.progress import Progress
from sslshift.study.records import remembered
from sslshift.training.loop import train
from sslshift.transfer.features import Encoder, NetworkEncoder, encoder_of, source_features

REFERENCE = "the study's own encoder, trained on an equal share of every candidate source"


def measure_shifts(opened: Opened, out: Path, progress: Progress) -> dict[str, dict]:
    """The shift index of each candidate by its name: fields of `ShiftIndex`, or nan and `why`."""
    if not opened.study.shift_images:
        return {each.name: _unknown_shift("--shift_images=0 asks for none") for each in opened.candidates}
    fingerprints = {uri: source.fingerprint for uri, source in opened.sources.items()}
    target, indices = opened.task.test
    record = opened.reference.record | {
        "mixture": "equal shares",
        "fingerprints": fingerprints,
        "target": [target.fingerprint, len(indices)],
        "seed": 0,
    }
    # In an order that does not depend on how they were typed.
    names = sorted({candidate.name for candidate in opened.candidates})
    mixtures = {candidate.name: dataclasses.asdict(candidate.mixture) for candidate in opened.candidates if candidate.text}
    folder = out / "shift" / "reference"

    def compute() -> dict:
        steps = opened.budget.steps(opened.study.batch_size)
        with progress.run("reference encoder of the shift index", 1, 1, steps) as work:
            state = train(opened.reference.training, opened.reader(opened.equal_shares, 0, 0), 0, folder, work.on_step)
        encode = NetworkEncoder(encoder_of(opened.reference.training.method, state.variables, opened.canvas))
        return {name: _shift(opened, encode, name, number) for number, name in enumerate(names)}

    shifts = remembered(folder, record | {"shift_images": opened.study.shift_images, "mixtures": mixtures}, compute)
    for name in names:
        progress.say(f"shift index of {name}", {"shift": shifts[name]["value"]})
    return shifts


def _shift(opened: Opened, encode: Encoder, name: str, number: int) -> dict:
    """Index of one candidate. The target is the test split: a source that is the training split shares no image with it."""
    target, indices = opened.task.test
    # Twice as many as are compared at a time: draws halve them.
    count = 2 * opened.study.shift_images
    indices = indices[permute(np.arange(min(count, len(indices))), len(indices), number)]
    noise = noise_like(target.read(indices, opened.canvas), key=jax.random.key(number))
    parts = [_features(opened, encode, *part) for part in _sample(opened, name, count, number)]
    features = np.concatenate(parts)
    target_features = source_features(encode, target, indices, opened.canvas)
    try:
        index = shift_index(features, target_features, key=jax.random.key(number), noise=encode(noise))
        return index._asdict() | {"dimensions": features.shape[1]}
    except ValueError as error:
        # Accuracies are worth having without a scale for the distance: the table says n/a and the report says why.
        return _unknown_shift(str(error))


def _features(opened: Opened, encode: Encoder, source: Source, indices: np.ndarray) -> np.ndarray:
    try:
        return source_features(encode, source, indices, opened.canvas)
    except BrokenImageError:
        # A distance does not need these very images.
        return source_features(encode, source, readable(source, indices, opened.canvas), opened.canvas)


def _sample(opened: Opened, name: str, count: int, number: int) -> list[tuple[Source, np.ndarray]]:
    """Images of a candidate's sources in the proportions in which it shows them, at most `count`."""
    mixture = next(candidate.mixture for candidate in opened.candidates if candidate.name == name)
    shares = {uri: mixture.share_of(uri) for uri in mixture.largest}
    sizes = {uri: len(opened.sources[uri]) for uri in shares}
    # A source with too few images for its share makes the sample smaller, not the share.
    count = min(count, *(int(sizes[uri] / share) for uri, share in shares.items()))
    counts = apportion(count, list(shares.values()))
    return [
        (opened.sources[uri], permute(np.arange(min(part, sizes[uri])), sizes[uri], number))
        for uri, part in zip(shares, counts, strict=True)
        if part
    ]


def _unknown_shift(why: str) -> dict:
    return dict.fromkeys(ShiftIndex._fields, math.nan) | {"why": why}
