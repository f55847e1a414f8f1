"""Matrix of finished encoders and tasks: scores with intervals, and differences between kinds of encoders."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import Canvas
from sslshift.models import ENCODER, PretrainedEncoder, open_encoder
from sslshift.models.description import describe
from sslshift.transfer.encoders import untrained_encoder
from sslshift.transfer.inference import Comparison, Interval, compare, runs_interval
from sslshift.transfer.matrix_leaks import sources_of
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import complete_block
from sslshift.transfer.predictions import Predictions, on_common_images, with_labelled_draws
from sslshift.transfer.scores import EvaluatedEncoder

# Entries of a card that encoders of one kind share; they differ only by training seed and draw of the images.
_SHARED = ("method", "encoder", "optimiser", "views", "mixture", "budget", "batch_size")
# Largest number of kinds for which all pairs are compared. With more kinds, each is compared only with the first.
_ALL_PAIRS = 4
# Bootstrap replicates behind an interval; a matrix has hundreds of intervals.
_REPLICATES = 1000


class ScoredEncoder(NamedTuple):
    """Scores of an encoder with its training seed and the draw of its training images."""

    seed: int
    draw: int
    scores: EvaluatedEncoder


KindScores = Sequence[ScoredEncoder]


@dataclasses.dataclass(frozen=True, eq=False)
class EncoderKind:
    """Encoders that differ only by seed and draw.

    Attributes:
      name: name of the kind in tables.
      encoders: seed, file and network of each encoder, sorted by seed.
    """

    name: str
    encoders: tuple[tuple[int, Path, PretrainedEncoder], ...]


def find_encoders(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Returns the files of encoders in several paths, and the unfinished runs in them.

    Args:
      paths: paths of a run, of a study, of a folder of studies, or of a file.

    Raises:
      ValueError: a path is nothing of this kind, or no run of a study is finished.
    """
    files = []
    unfinished = []
    for path in paths:
        # The pattern also finds the runs in a folder of several studies.
        runs = sorted(path.glob("**/runs/*/")) if path.is_dir() and not (path / ENCODER).exists() else []
        finished = [run / ENCODER for run in runs if (run / ENCODER).exists()]
        unfinished += [run for run in runs if run / ENCODER not in finished]
        if runs and not finished:
            raise ValueError(
                f"None of the {len(runs)} runs in {path} is finished; give the study's command again to continue it."
            )
        # A path that is neither a study nor an encoder is reported when it is loaded.
        files += finished or [path]
    # A run may be named twice: by its own folder and by the folder of its study.
    return list(dict.fromkeys(files)), unfinished


def by_kind(files: Sequence[Path]) -> list[EncoderKind]:
    """Loads encoders, and groups those that differ only by their seed or draw.

    Raises:
      ValueError: a file is not an encoder.
    """
    kinds: dict[str, list[tuple[int, Path, PretrainedEncoder]]] = {}
    for file in files:
        encoder = open_encoder(file)
        about = {name: encoder.card.get(name) for name in _SHARED}
        about["unique"] = {uri: source.get("unique") for uri, source in sources_of(encoder.card).items()}
        # Without a card, nothing is known about the encoder, so each file is a separate kind.
        key = json.dumps(about, sort_keys=True) if encoder.card.get("mixture") else str(file)
        kinds.setdefault(key, []).append((int(encoder.card.get("seed", 0)), file, encoder))
    members = [tuple(sorted(each, key=lambda one: (one[0], str(one[1])))) for each in kinds.values()]
    return [EncoderKind(name, each) for name, each in zip(_names(members), members, strict=True)]


def _names(kinds: Sequence[Sequence[tuple[int, Path, PretrainedEncoder]]]) -> list[str]:
    """Returns a name for each kind: its training data, with method and encoder if these differ between kinds."""
    cards = [members[0][2].card for members in kinds]
    parts = [[_trained_on(card) or str(members[0][1]) for card, members in zip(cards, kinds, strict=True)]]
    for what in ("method", "encoder"):
        values = [card.get(what, {}).get("name", "") for card in cards]
        parts += [values] if len(set(values)) > 1 else []
    parts += [[f"C={card.get('budget', 0):,}" for card in cards]] if len({card.get("budget") for card in cards}) > 1 else []
    names = [", ".join(filter(None, each)) for each in zip(*parts, strict=True)]
    # A number makes names unique if kinds differ in other entries only.
    by_folder = [f"{name} ({kinds[i][0][1].parent.name})" for i, name in enumerate(names)]
    by_path = [f"{name} ({kinds[i][0][1]})" for i, name in enumerate(names)]
    longer = [folder if by_folder.count(folder) == 1 else path for folder, path in zip(by_folder, by_path, strict=True)]
    return [name if names.count(name) == 1 else other for name, other in zip(names, longer, strict=True)]


def _trained_on(card) -> str:
    if "mixture" not in card:
        # The card of a published encoder contains its name.
        return str(card.get("name", ""))
    wanted = sum(source.get("unique", 0) for source in sources_of(card).values())
    return f"{card['mixture']} N={wanted:,}"


def untrained(encoder: PretrainedEncoder, seed: int) -> PretrainedEncoder:
    """Returns an encoder of the same architecture with random weights, its residual branches switched on."""
    found = untrained_encoder(encoder.module, Canvas(*encoder.shape), seed)
    return dataclasses.replace(encoder, variables=found.variables, card={})


def architectures(kinds: Sequence[EncoderKind]) -> list[tuple[str, PretrainedEncoder]]:
    """Returns one encoder of each architecture and image shape, with a name for its untrained baseline."""
    found: dict[str, tuple[str, PretrainedEncoder]] = {}
    for kind in kinds:
        encoder = kind.encoders[0][2]
        key = json.dumps([describe(encoder.module), encoder.shape])
        name = (
            encoder.card.get("encoder", {}).get("name") or encoder.card.get("architecture") or describe(encoder.module)["kind"]
        )
        found.setdefault(key, (f"untrained {name}", encoder))
    names = [name for name, _ in found.values()]
    return [
        (name if names.count(name) == 1 else f"{name} {'x'.join(map(str, encoder.shape))}", encoder)
        for name, encoder in found.values()
    ]


def score_table(kinds: dict[str, KindScores], tasks: Sequence[str]) -> dict[tuple[str, str, str], Interval]:
    """Returns scores with intervals by (kind, task, evaluation); evaluations without predictions are missing."""
    table = {}
    for (name, kind), task in itertools.product(kinds.items(), tasks):
        for evaluation in kind[0].scores.evaluations(task):
            found = _score(kind, task, evaluation)
            if found:
                table[name, task, evaluation] = found
    return table


def comparisons(
    kinds: dict[str, KindScores], baselines: Sequence[str], tasks: Sequence[str]
) -> dict[tuple[str, str, str, str], Comparison]:
    """Returns differences by (a, b, task, evaluation).

    Each trained kind is compared with each baseline and with each other trained kind. With more than four kinds, it is compared
    only with the first trained kind.
    """
    trained = [name for name in kinds if name not in baselines]
    pairs = (
        list(itertools.combinations(trained, 2)) if len(trained) <= _ALL_PAIRS else [(name, trained[0]) for name in trained[1:]]
    )
    pairs = [(name, baseline) for name in trained for baseline in baselines] + pairs
    found = {}
    for (a, b), task in itertools.product(pairs, tasks):
        shared = [name for name in kinds[a][0].scores.evaluations(task) if name in kinds[b][0].scores.evaluations(task)]
        for evaluation in shared:
            difference = _difference(kinds[a], kinds[b], task, evaluation)
            if difference:
                found[a, b, task, evaluation] = difference
    return found


def _score(kind: KindScores, task: str, evaluation: str) -> Interval | None:
    """Returns the metric with its interval over seeds, draws and test images; None if there are no predictions."""
    images, (predictions,) = _predictions([kind], task, evaluation)
    if not predictions[0].size:
        return None
    metric = METRICS[images.metric]
    return runs_interval(metric, predictions, images.labels, groups=images.groups, resamples=_REPLICATES)


def _difference(a: KindScores, b: KindScores, task: str, evaluation: str) -> Comparison | None:
    """Returns a - b, seed by seed on the same test images; None if one of them has no predictions."""
    images, (first, second) = _predictions([a, b], task, evaluation)
    if not first[0].size or not second[0].size:
        return None
    return compare(METRICS[images.metric], first, second, images.labels, groups=images.groups, resamples=_REPLICATES)


def _predictions(kinds: Sequence[KindScores], task: str, evaluation: str) -> tuple[Predictions, list[list[np.ndarray]]]:
    """Returns the first encoder's predictions, for metric, labels and groups, and the predictions of each kind and seed.

    The predictions of a seed have the axes draws of the training images, draws of the labelled images, and images. Of a study
    that is not finished, a complete block of seeds and draws is used.
    """
    several = on_common_images([each.scores.predicted(task) for kind in kinds for each in kind])
    metric = METRICS[several[0].metric]
    waiting = iter(several)
    found = []
    for kind in kinds:
        own = {(each.seed, each.draw): with_labelled_draws(next(waiting).predictions[evaluation], metric) for each in kind}
        found.append([np.stack([own[place] for place in row]) for row in complete_block(set(own))])
    return several[0], found
