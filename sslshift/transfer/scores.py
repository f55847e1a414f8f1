"""Scores of encoders on tasks, kept in folders: existing scores are read, and missing ones are computed.

A folder `tasks/TASK-EVALUATION-DIGEST` below an encoder's folder holds one evaluation on one task: `record.json` with
everything that the scores depend on, `result.json` with the scores, and `predictions.npz`. Another task or evaluation adds a
folder.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.command import remedy
from sslshift.storage import Store, digest, slug
from sslshift.transfer.features import Encoder, NetworkEncoder
from sslshift.transfer.predictions import Predictions, load_predictions, on_common_images, save_predictions
from sslshift.transfer.protocol import Evaluated, SharedFeatures, evaluate
from sslshift.transfer.tasks import Task


class EvaluationScore(NamedTuple):
    """Score of one encoder by one evaluation on one task.

    Attributes:
      value: metric on the test split; nan without predictions.
      low, high: ends of the metric's 95% interval over test images.
      validation: metric on the validation split.
      chosen: hyperparameters that were chosen on the validation split, by name.
    """

    value: float
    low: float
    high: float
    validation: float
    chosen: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TaskScores:
    """Scores of one encoder on one task.

    Attributes:
      metric: name of the metric.
      test_images: number of images of the test split that could be read.
      effective_rank: effective rank of the centred features of test images.
      evaluations: scores by the name of the evaluation.
      notes: sentences that a reader needs to understand the numbers.
    """

    metric: str
    test_images: int
    effective_rank: float
    evaluations: dict[str, EvaluationScore]
    notes: tuple[str, ...]

    @classmethod
    def of_results(cls, results: Sequence[Mapping[str, Any]]) -> "TaskScores":
        """Returns the scores in the `result.json` of several evaluations on one task, see `Evaluated.scores`."""
        evaluations = {}
        for flat in results:
            for name, chosen in flat["chosen"].items():
                values = (flat[name], flat[f"{name}_low"], flat[f"{name}_high"], flat[f"{name}_validation"])
                evaluations[name] = EvaluationScore(*values, chosen)
        notes = dict.fromkeys(note for flat in results for note in flat["notes"])
        last = results[-1]
        return cls(last["metric"], last["test_images"], last["effective_rank"], evaluations, tuple(notes))

    @property
    def linear(self) -> float:
        """The test metric of the linear probe."""
        return self.evaluations["linear"].value

    def columns(self) -> dict[str, Any]:
        """Returns the scores as cells of a table, by the names of their columns."""
        cells: dict[str, Any] = {
            "metric": self.metric,
            "test_images": self.test_images,
            "effective_rank": self.effective_rank,
        }
        for name, score in self.evaluations.items():
            cells |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
            cells |= {f"{name}_{setting}": value for setting, value in score.chosen.items()}
            cells[f"{name}_validation"] = score.validation
        return cells


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluatedEncoder:
    """An encoder's scores on tasks.

    Attributes:
      scores: scores by the name of the task.
      predictions: folders of the predictions by task, one for each evaluation.
    """

    scores: dict[str, TaskScores]
    predictions: dict[str, tuple[Path, ...]]

    def evaluations(self, task: str) -> list[str]:
        """Returns the names of the encoder's evaluations on a task."""
        return list(self.scores[task].evaluations)

    def predicted(self, task: str) -> Predictions:
        """Returns the predictions of all evaluations on a task, for their common test images.

        Raises:
          ValueError: predictions are missing or damaged.
        """
        several = on_common_images([_load(folder) for folder in self.predictions[task]])
        return several[0]._replace(predictions={name: each for one in several for name, each in one.predictions.items()})


# Folder and record of each evaluation, by task and name.
_Requests = dict[str, dict[str, tuple[Path, dict[str, Any]]]]


def _load(folder: Path) -> Predictions:
    try:
        return load_predictions(folder)
    except ValueError as error:
        advice = remedy(error) or "Delete that folder, and the same command evaluates its encoder again."
        raise ValueError(f"The predictions in {folder} cannot be read. {advice}") from error


def evaluate_stored(
    store: Store,
    encoder: Callable[[], Encoder],
    tasks: Sequence[Task],
    evaluations: Mapping[str, Any],
    features: str,
    folder: Path,
    **options: Any,
) -> EvaluatedEncoder:
    """Returns an encoder's scores on every task; computes scores that are missing in its folder.

    Args:
      store: store that reads the folder, and writes to it unless it is read only.
      encoder: function that makes the encoder; it is called only if scores are missing.
      tasks: tasks on which the encoder is evaluated.
      evaluations: evaluations by name, see `protocol.EVALUATIONS`.
      features: name of the features to evaluate.
      folder: folder of the encoder.
      **options: options of `protocol.evaluate`.

    Raises:
      NotStoredError: scores are missing, and the store is read only.
      ValueError: the encoder cannot be evaluated, or a file is damaged.
    """
    requests = {task.name: _requests(task, evaluations, features, folder) for task in tasks}
    results = _recalled(store, requests)
    if any(None in own.values() for own in results.values()):
        # Raised before the evaluation, because its results could not be kept.
        store.require_writable(folder)
        with store.locked(folder / "tasks"):
            results = _recalled(store, requests)
            _compute_missing(store, encoder, tasks, evaluations, features, requests, results, **options)
    scores = {task: TaskScores.of_results(list(own.values())) for task, own in results.items()}
    places = {task: tuple(place for place, _ in own.values()) for task, own in requests.items()}
    return EvaluatedEncoder(scores, places)


def _compute_missing(
    store: Store,
    encoder: Callable[[], Encoder],
    tasks: Sequence[Task],
    evaluations: Mapping[str, Any],
    features: str,
    requests: _Requests,
    results: dict[str, dict[str, Any]],
    **options: Any,
) -> None:
    """Fills in the results that are None; the other arguments are those of `evaluate_stored`."""
    # Weights are placed on the devices once for all tasks.
    encode = functools.cache(lambda: _with_features(encoder(), features))
    unfinished = [task for task in tasks if None in results[task.name].values()]
    shared = SharedFeatures(unfinished)
    for task in unfinished:
        own = results[task.name]
        missing = {name: evaluations[name] for name, result in own.items() if result is None}
        # One call evaluates all that is missing, so that the features of the task are computed once.
        evaluated = evaluate(encode(), task, missing, shared=shared, **options)
        for name in missing:
            place, record = requests[task.name][name]
            store.begin(place, record)
            own[name] = store.finish(place, _save(_of_evaluation(evaluated, name, evaluations), place))


def _recalled(store: Store, requests: _Requests) -> dict[str, dict[str, Any]]:
    return {
        task: {name: store.recalled(place, record) for name, (place, record) in own.items()} for task, own in requests.items()
    }


def _requests(
    task: Task, evaluations: Mapping[str, Any], features: str, folder: Path
) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Returns the folder and the record of each evaluation on a task."""
    found = {}
    for name, evaluation in evaluations.items():
        record = task.facts | {"evaluations": {name: dataclasses.asdict(evaluation)}, "features": features}
        found[name] = (folder / "tasks" / f"{slug(task.name)}-{name}-{digest(record)}", record)
    return found


def _save(evaluated: Evaluated, place: Path) -> dict[str, Any]:
    # Predictions are saved before the result, so that a folder with a result always has predictions.
    save_predictions(evaluated, place)
    return evaluated.scores()


def _of_evaluation(evaluated: Evaluated, name: str, evaluations: Mapping[str, Any]) -> Evaluated:
    """Returns the results of one evaluation, with its notes and with the notes that belong to no evaluation."""

    def owner(outcome: str) -> str:
        # The longest matching name is used: few_shot_5 belongs to few_shot, but finetune_frozen_bn does not belong to finetune.
        fitting = [each for each in evaluations if outcome == each or outcome.startswith(f"{each}_")]
        return max(fitting, key=len, default="")

    outcomes = {each: outcome for each, outcome in evaluated.outcomes.items() if owner(each) == name}
    notes = tuple(note for note in evaluated.notes if owner(note.partition(":")[0]) in ("", name))
    return evaluated._replace(outcomes=outcomes, notes=notes)


def _with_features(encode: Encoder, features: str) -> Encoder:
    """Returns the encoder with the features to evaluate; raw pixels have only one kind of features."""
    if isinstance(encode, NetworkEncoder):
        return dataclasses.replace(encode, pretrained=encode.pretrained.with_features(features))
    return encode
