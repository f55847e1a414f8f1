"""Predictions for the test split, kept in a folder for later comparisons of encoders on the same images."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sslshift.command import remedy
from sslshift.storage import whole_file
from sslshift.transfer.metrics import METRICS, Metric

if TYPE_CHECKING:
    from sslshift.transfer.protocol import Evaluated

PREDICTIONS = "predictions.npz"


class Predictions(NamedTuple):
    """Predictions for the test split, in the form that `save_predictions` writes.

    Attributes:
      metric: name of the metric.
      labels: labels of the test images.
      indices: indices of the test images in their source, ascending.
      predictions: results of `Metric.decide`, by the name of the evaluation.
      groups: group of each test image, see `Source.groups`; None if images are independent.
    """

    metric: str
    labels: np.ndarray
    indices: np.ndarray
    predictions: dict[str, np.ndarray]
    groups: np.ndarray | None = None

    def at(self, indices: np.ndarray) -> "Predictions":
        """Returns the predictions of some of these test images, given by ascending indices."""
        places = np.searchsorted(self.indices, indices)
        # Images are the last axis of predicted classes and the second last axis of scores.
        axis = -METRICS[self.metric].axes
        chosen = {name: np.take(each, places, axis) for name, each in self.predictions.items()}
        groups = None if self.groups is None else self.groups[places]
        return Predictions(self.metric, self.labels[places], self.indices[places], chosen, groups)


def on_common_images(several: Sequence[Predictions]) -> list[Predictions]:
    """Returns the predictions for the common test images; an image may have become unreadable between two evaluations.

    Raises:
      ValueError: the predictions belong to different tasks.
    """
    # Indices are usually the same everywhere, and comparing them is far quicker than sorting them again for each encoder.
    common = several[0].indices
    for each in several[1:]:
        common = common if np.array_equal(common, each.indices) else np.intersect1d(common, each.indices)
    several = [each.at(common) for each in several]
    first = several[0]
    if not len(common) or any(each.metric != first.metric or not np.array_equal(each.labels, first.labels) for each in several):
        raise ValueError("Predictions for different tasks cannot be compared; evaluate the runs on the same task.")
    return several


def with_labelled_draws(predictions: np.ndarray, metric: Metric) -> np.ndarray:
    """Returns predictions with a first axis of draws of labelled images, which is added if it is missing."""
    return predictions.reshape(-1, *predictions.shape[predictions.ndim - metric.axes :])


def save_predictions(evaluated: "Evaluated", folder: Path) -> None:
    """Writes the predictions of every evaluation to `predictions.npz` in a folder."""
    # The prefix keeps evaluations apart from the other arrays of the file, such as `labels`.
    arrays = {f"of_{name}": outcome.predictions for name, outcome in evaluated.outcomes.items()}
    if evaluated.groups is not None:
        arrays["groups"] = evaluated.groups
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / PREDICTIONS) as out:
        about = np.array(json.dumps({"task": evaluated.task, "metric": evaluated.metric}))
        np.savez_compressed(out, labels=evaluated.labels, indices=evaluated.indices, about=about, **arrays)


def load_predictions(folder: Path) -> Predictions:
    """Returns the predictions in a folder.

    Raises:
      ValueError: the folder has no predictions, or they cannot be read.
    """
    try:
        with np.load(folder / PREDICTIONS, allow_pickle=False) as arrays:
            metric = json.loads(str(arrays["about"]))["metric"]
            predictions = {name.removeprefix("of_"): arrays[name] for name in arrays.files if name.startswith("of_")}
            groups = arrays["groups"] if "groups" in arrays.files else None
            found = Predictions(metric, arrays["labels"], arrays["indices"], predictions, groups)
        _require_aligned(found)
        return found
    # NumPy, zipfile and zlib raise different errors for truncated or damaged files.
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        advice = remedy(error) or "Delete the folder and evaluate again."
        raise ValueError(f"{folder / PREDICTIONS} cannot be read ({error}). {advice}") from error


def _require_aligned(found: Predictions) -> None:
    """Raises ValueError unless images, labels, groups and predictions have the same number, and the images ascend."""
    count = len(found.indices)
    axis = -METRICS[found.metric].axes
    # An excluded evaluation has no predictions.
    sizes = {
        len(found.labels),
        *([] if found.groups is None else [len(found.groups)]),
        *(each.shape[axis] for each in found.predictions.values() if len(each)),
    }
    if found.indices.ndim != 1 or sizes != {count} or not (np.diff(found.indices) > 0).all():
        raise ValueError("its images, labels and predictions do not belong together")
