"""Encoders and what tasks say of them: kept in folders, put into intervals, compared on the same test images."""

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sslshift.study.records import remembered
from sslshift.transfer.features import Encoder, NetworkEncoder
from sslshift.transfer.intervals import Comparison, compare, runs_interval
from sslshift.transfer.intervals import Interval as Score
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.protocol import Predictions, evaluate, load_predictions, on_common_images, save_predictions
from sslshift.transfer.tasks import Task

# Of an interval's bootstrap over test images; a study has a hundred intervals.
_RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """What is known of an encoder.

    Attributes:
      folder: of the run or floor.
      trained: losses, and how many images could be read; empty for a floor.
      scores: by task, see `transfer.protocol.Evaluated.scores`.
      predictions: folders of the predictions, by task.
    """

    folder: Path
    trained: dict
    scores: dict[str, dict]
    predictions: dict[str, Path]

    def evaluations(self, task: str) -> list[str]:
        """Names of what it was judged by on a task."""
        return list(self.scores[task]["chosen"])

    def predicted(self, task: str) -> Predictions:
        return load_predictions(self.predictions[task])


def slug(name: str) -> str:
    """A folder's name for a source, mixture or task: readable, and unlike that of any other."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9]+", "_", (name.partition(":")[2] or name).partition("?")[0]).strip("_")
    return f"{words[-40:]}-{digest}"


def judge(
    encoder: Callable[[], Encoder],
    tasks: Sequence[Task],
    evaluations: Mapping[str, Any],
    features: str,
    folder: Path,
    *,
    trained: dict | None = None,
    **options: Any,
) -> Judged:
    """Scores of an encoder on every task, kept below its folder by what they depend on: another task or evaluation is added to
    those that are there, and what is there is not computed again.

    Args:
      encoder: makes the encoder, if it is needed.
      tasks: what it is judged on.
      evaluations: how.
      features: which of the encoder's features are judged.
      folder: of the encoder.
      trained: what is known of its training.
      **options: of `transfer.protocol.evaluate`.
    """
    encoder, scores, places = functools.cache(encoder), {}, {}
    for task in tasks:
        how = {name: dataclasses.asdict(evaluation) for name, evaluation in evaluations.items()}
        record = task.facts | {"evaluations": how, "features": features}
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
        place = places[task.name] = folder / "tasks" / f"{slug(task.name)}-{digest}"

        def compute(task=task, place=place) -> dict:
            evaluated = evaluate(_asked_for(encoder(), features), task, evaluations, **options)
            save_predictions(evaluated, place)
            return evaluated.scores()

        scores[task.name] = remembered(place, record, compute)
    return Judged(folder, trained or {}, scores, places)


def _asked_for(encode: Encoder, features: str) -> Encoder:
    """The encoder with the features that are judged; raw pixels are what they are."""
    if isinstance(encode, NetworkEncoder):
        return dataclasses.replace(encode, pretrained=encode.pretrained.with_features(features))
    return encode


# Encoders of one kind: (training seed, what is known of it); several of a seed are draws of the images trained on.
Kind = Sequence[tuple[int, Judged]]


def _predictions(kinds: Sequence[Kind], task: str, evaluation: str) -> tuple[str, np.ndarray, list[list[np.ndarray]]]:
    """The metric, labels of the test images, and for each kind what each seed's runs predict, with a first axis of draws."""
    several = on_common_images([judged.predicted(task) for kind in kinds for _, judged in kind])
    metric, waiting, found = several[0].metric, iter(several), []
    for kind in kinds:
        by_seed: dict[int, list[np.ndarray]] = {}
        for seed, _ in kind:
            by_seed.setdefault(seed, []).append(next(waiting).predictions[evaluation])
        runs = [
            [each.reshape(-1, *each.shape[each.ndim - METRICS[metric].axes :]) for each in draws]
            for _, draws in sorted(by_seed.items())
        ]
        # Draws of the images trained on, and of the labelled images, along one axis.
        found.append([np.concatenate(draws) if len(draws) > 1 or len(draws[0]) != 1 else draws[0][0] for draws in runs])
    return metric, several[0].labels, found


def score(kind: Kind, task: str, evaluation: str) -> Score | None:
    """The metric on the test split with its interval over seeds, draws and test images; None where there is no prediction."""
    metric, labels, (predictions,) = _predictions([kind], task, evaluation)
    if not len(predictions[0]):
        return None
    return runs_interval(METRICS[metric], predictions, labels, resamples=_RESAMPLES)


def difference(a: Kind, b: Kind, task: str, evaluation: str) -> Comparison | None:
    """What `a` scores less what `b` scores, seed by seed on the same test images; None where one has no prediction."""
    metric, labels, (first, second) = _predictions([a, b], task, evaluation)
    if not len(first[0]) or not len(second[0]):
        return None
    return compare(METRICS[metric], first, second, labels, resamples=_RESAMPLES)
