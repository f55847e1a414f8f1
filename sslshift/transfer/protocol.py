"""How an encoder is judged downstream: hyperparameters are chosen on a validation split, the test split is reported once."""

import dataclasses
import difflib
import functools
import json
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sslshift.command import parsed, remedy
from sslshift.losses import effective_rank
from sslshift.transfer.evaluation import Outcome, Split, Splits
from sslshift.transfer.features import Encoder, Extracted, extract
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.finetune import FineTune
from sslshift.transfer.inference import Interval, bootstrap_interval
from sslshift.transfer.knn import KNN
from sslshift.transfer.linear_probe import LinearProbe
from sslshift.transfer.metrics import METRICS, metric_for
from sslshift.transfer.sgd_probe import SGDProbe
from sslshift.transfer.tasks import Part, Task, require_classes

EVALUATIONS = {
    "knn": KNN(),
    "linear": LinearProbe(),
    "few_shot": FewShot(),
    "sgd": SGDProbe(),
    "finetune": FineTune(),
    "finetune_frozen_bn": FineTune(batch_norm="frozen"),
}
DEFAULT = "knn,linear"

# The effective rank grows with the number of images: always this many, if there are as many.
_RANK_IMAGES = 1000
# A test split of which more than this share is also in another split is no test split.
_LARGEST_OVERLAP = 0.5


def parse_evaluations(names: str, options: str = "") -> dict[str, Any]:
    """Evaluations by name, some of their settings changed.

    Example:
      >>> parse_evaluations("few_shot", "few_shot.draws=5; few_shot.shots=1,5")["few_shot"].draws
      5

    Args:
      names: of `EVALUATIONS`, separated by ','.
      options: `EVALUATION.SETTING=VALUE`, separated by ';'.

    Raises:
      ValueError: a name is unknown, or a value is none for its setting.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in EVALUATIONS:
            near = difflib.get_close_matches(name, EVALUATIONS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"No evaluation is called {name!r}; there is {', '.join(EVALUATIONS)}.{hint}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"Name at least one evaluation, and each once; got {names!r}.")
    chosen = {name: EVALUATIONS[name] for name in wanted}
    for part in filter(None, (part.strip() for part in options.split(";"))):
        path, equals, text = (piece.strip() for piece in part.partition("="))
        name, _, setting = path.partition(".")
        settings = {field.name for field in dataclasses.fields(chosen[name])} if name in chosen else ()
        if not equals or setting not in settings:
            known = ", ".join(f"{each}.{field.name}" for each in chosen for field in dataclasses.fields(chosen[each]))
            raise ValueError(f"Evaluation options are written EVALUATION.SETTING=VALUE, not {part!r}; there is {known}.")
        value = parsed(path, text, getattr(chosen[name], setting))
        chosen[name] = dataclasses.replace(chosen[name], **{setting: value})
    return chosen


class Evaluated(NamedTuple):
    """What a task says of an encoder.

    Attributes:
      task, metric: their names.
      outcomes: of the evaluations, by name.
      labels: of the test images that could be read.
      indices: of these images in their source.
      effective_rank: of the centred features of up to 1,000 test images: a few where an encoder has collapsed.
      broken: images that could not be read: the source's name, index, reason.
      notes: sentences that a reader of the numbers must know.
    """

    task: str
    metric: str
    outcomes: dict[str, Outcome]
    labels: np.ndarray
    indices: np.ndarray
    effective_rank: float
    broken: tuple[tuple[str, int, str], ...]
    notes: tuple[str, ...]

    def scores(self) -> dict[str, Any]:
        """Flat values for tables and JSON.

        For each evaluation NAME its metric on the test split as `NAME`, the 95% interval over test images as `NAME_low` and
        `NAME_high`, `NAME_validation`, and what was chosen.
        """
        flat: dict[str, Any] = {"metric": self.metric, "test_images": len(self.labels), "effective_rank": self.effective_rank}
        metric = metric_for(self.metric, self.labels)
        for name, outcome in self.outcomes.items():
            # Nothing was predicted where there were not enough labelled images; a note says so.
            value = Interval(math.nan, math.nan, math.nan)
            if len(outcome.predictions):
                value = bootstrap_interval(metric, outcome.predictions, self.labels)
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            flat |= {f"{name}_{key}": each for key, each in outcome.chosen.items()}
            flat[f"{name}_validation"] = outcome.validation
        chosen = {name: outcome.chosen for name, outcome in self.outcomes.items()}
        return flat | {"chosen": chosen, "notes": list(self.notes), "unreadable": [list(each) for each in self.broken]}


def evaluate(
    encode: Encoder,
    task: Task,
    evaluations: Mapping[str, Any] | None = None,
    *,
    cache: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluated:
    """Judges an encoder by a task.

    Features are computed once for all evaluations. Images that cannot be read are left out and listed. A training or
    validation image that equals a test image, pixel for pixel as the encoder sees them, is left out, and so is a training image
    that equals a validation image; notes count them, and those of another label. To encoders that take gray images, pictures
    that differ in colour alone are equal.

    Args:
      encode: from images to features; `features.NetworkEncoder` or `features.pixel_encoder`.
      task: the task.
      evaluations: what to judge by; None: kNN and linear probe by their default settings.
      cache: folder that keeps features, see `features.extract`.
      on_progress: called with what is being done (images of a split, steps of fine-tuning), and how much is done and wanted.

    Raises:
      ValueError: features are not finite, most test images are also training images, or too little is left of a split.
    """
    evaluations = parse_evaluations(DEFAULT) if evaluations is None else evaluations
    parts = task.parts
    extracted = {}
    for name, part in parts.items():
        seen = extract(
            encode,
            part.source,
            part.indices,
            task.canvas,
            cache=cache,
            on_images=functools.partial(on_progress, f"{name} images"),
        )
        extracted[name] = seen
    left, notes = _apart(extracted, parts)
    cleaned = {name: Part(part.source, part.indices[extracted[name].kept][left[name]]) for name, part in parts.items()}
    require_classes(cleaned, task.train.source.classes)
    splits = {name: Split(extracted[name].features[left[name]], part.labels) for name, part in cleaned.items()}
    metric = metric_for(task.metric, splits["test"].labels)
    outcomes = {}
    for name, evaluation in evaluations.items():
        if isinstance(evaluation, FineTune):
            pretrained = getattr(encode, "pretrained", None)
            if pretrained is None:
                notes.append(f"{name}: needs an encoder with weights, which raw pixels have not")
                continue
            if pretrained.features != "pooled":
                notes.append(f"{name}: stands on the features that the encoder pools itself, not on {pretrained.features!r}")
            on_step = functools.partial(on_progress, f"{name} steps")
            outcomes |= evaluation(pretrained, dataclasses.replace(task, **cleaned), metric, on_step=on_step)
        else:
            outcomes |= evaluation(Splits(**splits, classes=task.classes), metric)
    broken = tuple((parts[name].source.name, *each) for name, seen in extracted.items() for each in seen.broken)
    notes += [f"{name}: {note}" for name, outcome in outcomes.items() for note in outcome.notes]
    some = jnp.asarray(splits["test"].features[:_RANK_IMAGES])
    # Centred: a direction that all features share separates nothing.
    rank = float(effective_rank(some - some.mean(axis=0)))
    return Evaluated(
        task.name, task.metric, outcomes, splits["test"].labels, cleaned["test"].indices, rank, broken, (*task.notes, *notes)
    )


def _apart(extracted: dict[str, Extracted], parts: dict[str, Part]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Which of the images that could be read remain in each split, and notes on the others."""
    digests = {name: [digest.tobytes() for digest in seen.digests] for name, seen in extracted.items()}
    labels = {name: part.labels[extracted[name].kept] for name, part in parts.items()}
    left = {"test": np.ones(len(digests["test"]), bool)}
    notes = [
        f"{len(seen.broken):,} of {len(seen.kept):,} images of the {name} split cannot be read and are left out, e.g. "
        f"{seen.broken[0][1]}"
        for name, seen in extracted.items()
        if seen.broken
    ]
    for name, others in (("validation", ("test",)), ("train", ("test", "validation"))):
        left[name] = np.ones(len(digests[name]), bool)
        for other in others:
            taken = set(digests[other])
            shared = np.array([digest in taken for digest in digests[name]], bool) & left[name]
            held = {digest for digest, is_shared in zip(digests[name], shared, strict=True) if is_shared}
            overlap = sum(digest in held for digest in digests[other])
            if overlap > _LARGEST_OVERLAP * len(digests[other]):
                raise ValueError(
                    f"{overlap:,} of {len(digests[other]):,} {other} images of {parts[other].source.name} are also {name} "
                    f"images of {parts[name].source.name}, as the encoder sees them: the splits must hold different images."
                )
            if overlap:
                apart = _differently_labelled(np.flatnonzero(shared), name, other, digests, labels)
                notes.append(
                    f"{int(shared.sum()):,} {name} images equal {other} images pixel for pixel, as the encoder sees them, "
                    f"and are left out of the {name} split" + (f"; {apart:,} of them have another label there" if apart else "")
                )
            left[name] &= ~shared
    return left, notes


def _differently_labelled(
    places: np.ndarray, name: str, other: str, digests: dict[str, list[bytes]], labels: dict[str, np.ndarray]
) -> int:
    """Returns how many images at these places of a split have a label that no equal image of the other split has."""
    there = {(digest, label.tobytes()) for digest, label in zip(digests[other], labels[other], strict=True)}
    return sum((digests[name][place], labels[name][place].tobytes()) not in there for place in places.tolist())


PREDICTIONS = "predictions.npz"


def save_predictions(evaluated: Evaluated, folder: Path) -> None:
    """Writes what every evaluation predicted of the test images, for comparisons later, to `predictions.npz` in a folder."""
    arrays = {f"of_{name}": outcome.predictions for name, outcome in evaluated.outcomes.items()}
    part = folder / f"{PREDICTIONS}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with open(part, "wb") as out:
        about = np.array(json.dumps({"task": evaluated.task, "metric": evaluated.metric}))
        np.savez_compressed(out, labels=evaluated.labels, indices=evaluated.indices, about=about, **arrays)
    part.replace(folder / PREDICTIONS)


class Predictions(NamedTuple):
    """What `save_predictions` kept: `predictions` by the name of the evaluation."""

    metric: str
    labels: np.ndarray
    indices: np.ndarray
    predictions: dict[str, np.ndarray]

    def at(self, indices: np.ndarray) -> "Predictions":
        """Of some of these test images alone, in the order of their indices, each once."""
        places = np.searchsorted(self.indices, indices)
        # Images are the last axis of predicted classes, the last but one of scores.
        axis = -METRICS[self.metric].axes
        chosen = {name: np.take(each, places, axis) for name, each in self.predictions.items()}
        return Predictions(self.metric, self.labels[places], self.indices[places], chosen)


def on_common_images(several: Sequence[Predictions]) -> list[Predictions]:
    """Predictions brought to the test images that all of them are of: an image may have become unreadable between two runs.

    Raises:
      ValueError: they are of different tasks.
    """
    common = functools.reduce(np.intersect1d, (each.indices for each in several))
    several = [each.at(common) for each in several]
    first = several[0]
    if not len(common) or any(each.metric != first.metric or not np.array_equal(each.labels, first.labels) for each in several):
        raise ValueError("Predictions of different tasks cannot be compared; evaluate the runs on one task.")
    return several


def _require_aligned(found: Predictions) -> None:
    """Raises ValueError where predictions, labels and images are not equally many, or the images not in order, each once."""
    count = len(found.indices)
    axis = -METRICS[found.metric].axes
    # Where nothing could be predicted there are no predictions of any image.
    sizes = {len(found.labels), *(each.shape[axis] for each in found.predictions.values() if len(each))}
    if found.indices.ndim != 1 or sizes != {count} or not (np.diff(found.indices) > 0).all():
        raise ValueError("its images, labels and predictions do not belong together")


def load_predictions(folder: Path) -> Predictions:
    """Raises ValueError where a folder has no predictions, or unreadable ones."""
    try:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as arrays:
            metric = json.loads(str(arrays["about"]))["metric"]
            predictions = {name.removeprefix("of_"): arrays[name] for name in arrays.files if name.startswith("of_")}
            found = Predictions(metric, arrays["labels"], arrays["indices"], predictions)
        _require_aligned(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        advice = remedy(error) or "Delete the folder and evaluate again."
        raise ValueError(f"{folder / PREDICTIONS} cannot be read ({error}). {advice}") from error
