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

from sslshift.command import remedy
from sslshift.study.records import recalled, remembered, require_computing
from sslshift.transfer.features import Encoder, NetworkEncoder
from sslshift.transfer.inference import Comparison, Interval, compare, runs_interval
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.predictions import Predictions, load_predictions, on_common_images, save_predictions
from sslshift.transfer.protocol import Evaluated, evaluate
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
      predictions: folders of the predictions by task, one for each evaluation.
    """

    folder: Path
    trained: dict
    scores: dict[str, dict]
    predictions: dict[str, tuple[Path, ...]]

    def evaluations(self, task: str) -> list[str]:
        """Names of what it was judged by on a task."""
        return list(self.scores[task]["chosen"])

    def predicted(self, task: str) -> Predictions:
        several = on_common_images([_load(folder) for folder in self.predictions[task]])
        return several[0]._replace(predictions={name: each for one in several for name, each in one.predictions.items()})


def _load(folder: Path) -> Predictions:
    try:
        return load_predictions(folder)
    except ValueError as error:
        advice = remedy(error) or "Delete that folder, and the same command evaluates its encoder again."
        raise ValueError(f"The predictions in {folder} cannot be read. {advice}") from error


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

    Raises:
      NotThereError: something is missing, within `records.only_reading`.
    """
    encoder = functools.cache(encoder)
    scores = {}
    places = {}
    for task in tasks:
        asked = _asked(task, evaluations, features, folder)
        missing = {name: evaluations[name] for name, where in asked.items() if recalled(*where) is None}
        if missing:
            require_computing(asked[next(iter(missing))][0])
            evaluated = evaluate(_asked_for(encoder(), features), task, missing, **options)
            for name in missing:
                place, record = asked[name]
                own = _of(evaluated, name, evaluations)
                remembered(place, record, lambda own=own, place=place: save_predictions(own, place) or own.scores())
        scores[task.name] = _merged([recalled(*where) for where in asked.values()])
        places[task.name] = tuple(place for place, _ in asked.values())
    return Judged(folder, trained or {}, scores, places)


def _asked(task: Task, evaluations: Mapping[str, Any], features: str, folder: Path) -> dict[str, tuple[Path, dict]]:
    """Folder and record of each evaluation on a task."""
    asked = {}
    for name, evaluation in evaluations.items():
        record = task.facts | {"evaluations": {name: dataclasses.asdict(evaluation)}, "features": features}
        digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:8]
        asked[name] = (folder / "tasks" / f"{slug(task.name)}-{name}-{digest}", record)
    return asked


def _of(evaluated: Evaluated, name: str, evaluations: Mapping[str, Any]) -> Evaluated:
    """What one evaluation found, with its own notes and those that are nobody's."""

    def owner(outcome: str) -> str:
        # Of few_shot_5 it is few_shot, of finetune_frozen_bn not finetune.
        fitting = [each for each in evaluations if outcome == each or outcome.startswith(f"{each}_")]
        return max(fitting, key=len, default="")

    outcomes = {each: outcome for each, outcome in evaluated.outcomes.items() if owner(each) == name}
    notes = tuple(note for note in evaluated.notes if owner(note.partition(":")[0]) in ("", name))
    return evaluated._replace(outcomes=outcomes, notes=notes)


def _merged(several: Sequence[dict]) -> dict:
    """Scores of several evaluations on one task as those of one."""
    merged = {}
    for scores in several:
        merged |= scores
    chosen = {name: each for scores in several for name, each in scores["chosen"].items()}
    return merged | {"chosen": chosen, "notes": list(dict.fromkeys(note for scores in several for note in scores["notes"]))}


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
    metric = several[0].metric
    waiting = iter(several)
    found = []
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


def score(kind: Kind, task: str, evaluation: str) -> Interval | None:
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
