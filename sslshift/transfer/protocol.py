"""The protocol of evaluation: hyperparameters are chosen on a validation split, and the test split is scored once."""

import dataclasses
import difflib
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sslshift.command import parsed, settings
from sslshift.data.decode import Canvas
from sslshift.losses import effective_rank
from sslshift.transfer.evaluation import Outcome, Split, Splits
from sslshift.transfer.extraction import Extracted, extract
from sslshift.transfer.features import Encoder
from sslshift.transfer.few_shot import FewShot
from sslshift.transfer.finetune import FineTune
from sslshift.transfer.inference import Interval, bootstrap_interval
from sslshift.transfer.knn import KNN
from sslshift.transfer.linear_probe import LinearProbe
from sslshift.transfer.logistic import one_thread
from sslshift.transfer.metrics import Metric, metric_for
from sslshift.transfer.sgd_probe import SGDProbe
from sslshift.transfer.tasks import LabelledImages, Task, require_classes

Evaluation = KNN | LinearProbe | FewShot | SGDProbe | FineTune

EVALUATIONS: dict[str, Evaluation] = {
    "knn": KNN(),
    "linear": LinearProbe(),
    "few_shot": FewShot(),
    "sgd": SGDProbe(),
    "finetune": FineTune(),
    "finetune_frozen_bn": FineTune(batch_norm="frozen"),
}
DEFAULT = "knn,linear"
_TITLES = {
    "knn": "kNN",
    "sgd": "SGD probe",
    "finetune": "fine-tuned",
    "finetune_frozen_bn": "fine-tuned, BN frozen",
}

_PHRASES = {
    "linear": "the linear probe",
    "sgd": "the SGD probe",
    "finetune": "fine-tuning",
    "finetune_frozen_bn": "fine-tuning with frozen batch norm",
}

# Number of images for the effective rank, which grows with it; a fixed number makes ranks of tasks comparable.
_RANK_IMAGES = 1000
# Largest share of test images that may be in another split. A test split with more would measure memory, not transfer.
_LARGEST_OVERLAP = 0.5


def parse_evaluations(names: str, options: str = "") -> dict[str, Evaluation]:
    """Returns evaluations by name, with some of their settings changed.

    Example:
      >>> parse_evaluations("few_shot", "few_shot.draws=5; few_shot.shots=1,5")["few_shot"].draws
      5

    Args:
      names: names in `EVALUATIONS`, separated by ','.
      options: settings `EVALUATION.SETTING=VALUE`, separated by ';'.

    Raises:
      ValueError: a name is not known, or a value is not valid for its setting.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in EVALUATIONS:
            near = difflib.get_close_matches(name, EVALUATIONS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"Expected evaluations among {', '.join(EVALUATIONS)}, got {name!r}.{hint}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"Expected at least one evaluation, and each only once, got {names!r}.")
    chosen = {name: EVALUATIONS[name] for name in wanted}
    known = [f"{name}.{field.name}" for name, each in chosen.items() for field in dataclasses.fields(each)]
    for path, text in settings(options, flag="--evaluation_options", names=known).items():
        name, _, setting = path.partition(".")
        value = parsed(path, text, getattr(chosen[name], setting))
        chosen[name] = dataclasses.replace(chosen[name], **{setting: value})
    return chosen


def count_outcomes(evaluations: Mapping[str, Evaluation]) -> int:
    """Returns the number of outcomes of evaluations: few-shot evaluations have one for each number of shots.

    Example:
      >>> count_outcomes(parse_evaluations("linear,few_shot", "few_shot.shots=1,5"))
      3
    """
    return sum(len(each.shots) if isinstance(each, FewShot) else 1 for each in evaluations.values())


def evaluation_phrase(name: str) -> str:
    """Returns the name of an evaluation in a sentence, after the word `by`.

    Example:
      >>> evaluation_phrase("knn"), evaluation_phrase("linear"), evaluation_phrase("few_shot_5")
      ('kNN', 'the linear probe', '5-shot probes')
    """
    shots = name.removeprefix("few_shot_")
    return _PHRASES.get(name) or (f"{shots}-shot probes" if shots != name else evaluation_title(name))


def evaluation_title(name: str) -> str:
    """Returns the name of an evaluation in tables.

    Example:
      >>> evaluation_title("knn"), evaluation_title("few_shot_5")
      ('kNN', 'few-shot 5')
    """
    return _TITLES.get(name) or name.replace("few_shot", "few-shot").replace("_", " ")


class Evaluated(NamedTuple):
    """Results of an encoder on a task.

    Attributes:
      task, metric: names of task and metric.
      outcomes: outcomes of the evaluations, by name.
      labels: labels of the test images that could be read.
      indices: indices of these images in their source.
      effective_rank: effective rank of the centred features of up to 1,000 test images; small if the encoder has collapsed.
      broken: name of the source, index and reason of each image that could not be read.
      notes: sentences that a reader needs to understand the numbers.
      groups: groups of the test images, see `Source.groups`.
    """

    task: str
    metric: str
    outcomes: dict[str, Outcome]
    labels: np.ndarray
    indices: np.ndarray
    effective_rank: float
    broken: tuple[tuple[str, int, str], ...]
    notes: tuple[str, ...]
    groups: np.ndarray | None = None

    def scores(self) -> dict[str, Any]:
        """Returns flat values for tables and JSON.

        Each evaluation NAME gives its metric on the test split as `NAME`, the 95% interval over test images as
        `NAME_low` and `NAME_high`, `NAME_validation`, and the chosen hyperparameters.
        """
        flat: dict[str, Any] = {"metric": self.metric, "test_images": len(self.labels), "effective_rank": self.effective_rank}
        metric = metric_for(self.metric, self.labels)
        for name, outcome in self.outcomes.items():
            # An excluded evaluation has no predictions; a note gives the reason.
            value = Interval(math.nan, math.nan, math.nan)
            if len(outcome.predictions):
                value = bootstrap_interval(metric, outcome.predictions, self.labels, groups=self.groups)
            flat |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            flat |= {f"{name}_{key}": each for key, each in outcome.chosen.items()}
            flat[f"{name}_validation"] = outcome.validation
        chosen = {name: outcome.chosen for name, outcome in self.outcomes.items()}
        return flat | {"chosen": chosen, "notes": list(self.notes), "unreadable": [list(each) for each in self.broken]}


class SharedFeatures:
    """Features of one encoder for several tasks: images of several tasks are read and encoded once.

    Features are kept until their last use only. Splits share features if they have the same images in the same order; labels,
    metrics and classes may differ.

    Args:
      tasks: the tasks, each of which uses each of its splits once.
    """

    def __init__(self, tasks: Sequence[Task]):
        self._uses = Counter(_images_key(images, task.canvas) for task in tasks for images in task.splits.values())
        self._kept: dict[tuple[str, Canvas, str], Extracted] = {}

    def extracted(self, encode: Encoder, images: LabelledImages, canvas: Canvas, **options: Any) -> Extracted:
        """Returns the features of a split; `options` are those of `extract`."""
        key = _images_key(images, canvas)
        found = self._kept.pop(key, None)
        if found is None:
            found = extract(encode, images.source, images.indices, canvas, **options)
        self._uses[key] -= 1
        if self._uses[key] > 0:
            self._kept[key] = found
        return found


def _images_key(images: LabelledImages, canvas: Canvas) -> tuple[str, Canvas, str]:
    indices = hashlib.sha256(np.asarray(images.indices, np.int64).tobytes()).hexdigest()
    return images.source.fingerprint, canvas, indices


def evaluate(
    encode: Encoder,
    task: Task,
    evaluations: Mapping[str, Evaluation] | None = None,
    *,
    shared: SharedFeatures | None = None,
    cache: Path | None = None,
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluated:
    """Returns the results of an encoder on a task.

    Features are computed once for all evaluations. Images that cannot be read are excluded and listed. A training or validation
    image that equals a test image, pixel for pixel on the task's canvas, is excluded, and so is a training image that equals a
    validation image. Notes count these images, and the ones with another label. For encoders that take grey images, pictures
    that differ only in colour are equal.

    Args:
      encode: function from images to features: `features.NetworkEncoder` or `features.pixel_encoder`.
      task: the task.
      evaluations: evaluations by name; None: kNN and linear probe with default settings.
      shared: features that other tasks of the same encoder use too; None: no other task.
      cache: folder that keeps features, see `extraction.extract`.
      on_progress: callback that receives the current work (such as images of a split), the amount done and the total.

    Raises:
      ValueError: features are not finite, most test images are also training images, or too few images remain in a split.
    """
    evaluations = parse_evaluations(DEFAULT) if evaluations is None else evaluations
    shared = shared or SharedFeatures([task])
    extracted = {
        name: shared.extracted(
            encode, images, task.canvas, cache=cache, on_images=functools.partial(on_progress, f"{name} images")
        )
        for name, images in task.splits.items()
    }
    kept, notes = _without_shared_images(extracted, task.splits)
    cleaned = {
        name: LabelledImages(images.source, images.indices[extracted[name].kept][kept[name]])
        for name, images in task.splits.items()
    }
    # The classes are checked again, because an exclusion may have removed the last image of a class.
    require_classes(cleaned, task.train.source.classes)
    features = {name: Split(_chosen(extracted[name].features, kept[name]), images.labels) for name, images in cleaned.items()}
    test = cleaned["test"]
    outcomes, remarks = _outcomes(
        encode,
        # Fine-tuning reads images, and must not read the excluded ones.
        dataclasses.replace(task, **cleaned),
        Splits(**features, classes=task.classes),
        evaluations,
        metric_for(task.metric, test.labels),
        on_progress,
    )
    notes += remarks
    notes += [f"{name}: {note}" for name, outcome in outcomes.items() for note in outcome.notes]
    broken = tuple((task.splits[name].source.name, *each) for name, found in extracted.items() for each in found.broken)
    about = _centred_rank(features["test"].features), broken, (*task.notes, *notes), test.groups
    return Evaluated(task.name, task.metric, outcomes, test.labels, test.indices, *about)


def _outcomes(
    encode: Encoder,
    task: Task,
    features: Splits,
    evaluations: Mapping[str, Evaluation],
    metric: Metric,
    on_progress: Callable[[str, int, int], None],
) -> tuple[dict[str, Outcome], list[str]]:
    """Returns the outcomes of all evaluations by name, and notes on evaluations that the encoder does not support."""
    outcomes: dict[str, Outcome] = {}
    notes = []
    for name, evaluation in evaluations.items():
        if not isinstance(evaluation, FineTune):
            outcomes |= evaluation(features, metric)
            continue
        pretrained = getattr(encode, "pretrained", None)
        if pretrained is None:
            notes.append(f"{name}: needs an encoder with weights, which raw pixels do not have")
            continue
        if pretrained.features != "pooled":
            notes.append(f"{name}: uses the features that the encoder pools itself, not {pretrained.features!r}")
        outcomes |= evaluation(pretrained, task, metric, on_step=functools.partial(on_progress, f"{name} steps"))
    return outcomes, notes


def _chosen(features: np.ndarray | jax.Array, kept: np.ndarray) -> np.ndarray | jax.Array:
    """Returns the features of the images that are kept, where they are: on the device or the host."""
    if kept.all():
        return features
    return _taken(features, np.flatnonzero(kept)) if isinstance(features, jax.Array) else features[kept]


@jax.jit
def _taken(features, places):
    return jnp.take(features, places, axis=0, mode="clip")


def _centred_rank(features: np.ndarray | jax.Array) -> float:
    # Of features on the host, only these images are sent to the device.
    some = features if isinstance(features, jax.Array) else features[:_RANK_IMAGES]
    # On a CPU, singular values of this size take 0.015 s with one thread, and a second with several if the cores are busy.
    with one_thread():
        return float(jax.device_get(_rank(some, images=min(_RANK_IMAGES, len(some)))))


@functools.partial(jax.jit, static_argnames="images")
def _rank(features, *, images):
    some = features[:images]
    # Features are centred, because a common offset separates no classes but would count as one dimension.
    return effective_rank(some - some.mean(axis=0, keepdims=True))


def _without_shared_images(
    extracted: dict[str, Extracted], splits: dict[str, LabelledImages]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns masks of the readable images that remain in each split, and notes on the excluded ones."""
    digests = {name: [digest.tobytes() for digest in found.digests] for name, found in extracted.items()}
    labels = {name: images.labels[extracted[name].kept] for name, images in splits.items()}
    kept = {"test": np.ones(len(digests["test"]), bool)}
    notes = [
        f"{len(found.broken):,} of {len(found.kept):,} images of the {name} split cannot be read and are excluded, e.g. "
        f"{found.broken[0][1]}"
        for name, found in extracted.items()
        if found.broken
    ]
    # Images are excluded from the other splits, so that test scores are comparable between studies.
    for name, others in (("validation", ("test",)), ("train", ("test", "validation"))):
        kept[name] = np.ones(len(digests[name]), bool)
        for other in others:
            taken = set(digests[other])
            # An image that equals both a test and a validation image is counted once.
            shared = np.array([digest in taken for digest in digests[name]], bool) & kept[name]
            held = {digest for digest, is_shared in zip(digests[name], shared, strict=True) if is_shared}
            overlap = sum(digest in held for digest in digests[other])
            # A few shared images can occur in any collection; a large share means that a URI is wrong.
            if overlap > _LARGEST_OVERLAP * len(digests[other]):
                raise ValueError(
                    f"{overlap:,} of {len(digests[other]):,} {other} images of {splits[other].source.name} are also {name} "
                    f"images of {splits[name].source.name}, as the encoder sees them: the splits must hold different images."
                )
            if overlap:
                other_label = _differently_labelled(np.flatnonzero(shared), name, other, digests, labels)
                notes.append(
                    f"{int(shared.sum()):,} {name} images equal {other} images pixel for pixel, as the encoder sees them, "
                    f"and are excluded from the {name} split"
                    + (f"; {other_label:,} of them have another label there" if other_label else "")
                )
            kept[name] &= ~shared
    return kept, notes


def _differently_labelled(
    places: np.ndarray, name: str, other: str, digests: dict[str, list[bytes]], labels: dict[str, np.ndarray]
) -> int:
    """Returns the number of these images whose label differs from the labels of all equal images in the other split."""
    there = {(digest, label.tobytes()) for digest, label in zip(digests[other], labels[other], strict=True)}
    return sum((digests[name][place], labels[name][place].tobytes()) not in there for place in places.tolist())
