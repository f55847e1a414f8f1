"""Finished encoders on many tasks: a table of scores with intervals, and what may be said of their differences."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from sslshift.data.decode import Canvas
from sslshift.models import ENCODER, PretrainedEncoder, open_encoder
from sslshift.models.description import describe
from sslshift.study.judged import Kind, difference, score
from sslshift.transfer.encoders import untrained_encoder
from sslshift.transfer.inference import Comparison, Interval

# Of a card: what encoders share that differ by chance alone, by the seed of the training and the draw of the images.
_SHARED = ("method", "encoder", "optimiser", "views", "mixture", "budget", "batch_size")
# Above so many kinds of encoders each is compared with the first alone: pairs would be too many to read or to believe.
_ALL_PAIRS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """Encoders of one kind: by seed, with the paths they come from. `name` is what tables call them."""

    name: str
    encoders: tuple[tuple[int, Path, PretrainedEncoder], ...]


def find_encoders(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Files of encoders, and runs that are not finished.

    Args:
      paths: each a run's folder, that of a whole study or of several, or a file.

    Raises:
      ValueError: a path is none of these, or no run of a study is finished.
    """
    files = []
    unfinished = []
    for path in paths:
        # Also of a folder of several studies, as a comparison of methods writes.
        runs = sorted(path.glob("**/runs/*/")) if path.is_dir() and not (path / ENCODER).exists() else []
        finished = [run / ENCODER for run in runs if (run / ENCODER).exists()]
        unfinished += [run for run in runs if run / ENCODER not in finished]
        if runs and not finished:
            raise ValueError(
                f"None of the {len(runs)} runs in {path} is finished; give its command again, it goes on where it was."
            )
        # What is no study is told by who loads it.
        files += finished or [path]
    return list(dict.fromkeys(files)), unfinished


def by_kind(files: Sequence[Path]) -> list[Named]:
    """Loads encoders, and puts those together that differ by their seed alone.

    Raises:
      ValueError: a file is no encoder.
    """
    kinds: dict[str, list[tuple[int, Path, PretrainedEncoder]]] = {}
    for file in files:
        encoder = open_encoder(file)
        about = {name: encoder.card.get(name) for name in _SHARED}
        about["unique"] = {uri: source.get("unique") for uri, source in encoder.card.get("sources", {}).items()}
        # Without a card nothing is known to be shared.
        key = json.dumps(about, sort_keys=True) if encoder.card.get("mixture") else str(file)
        kinds.setdefault(key, []).append((int(encoder.card.get("seed", 0)), file, encoder))
    members = [tuple(sorted(each, key=lambda one: (one[0], str(one[1])))) for each in kinds.values()]
    return [Named(name, each) for name, each in zip(_names(members), members, strict=True)]


def _names(kinds: Sequence[Sequence[tuple[int, Path, PretrainedEncoder]]]) -> list[str]:
    """What they were trained on, and by which method and encoder where these differ."""
    cards = [members[0][2].card for members in kinds]
    parts = [[_trained_on(card) or str(members[0][1]) for card, members in zip(cards, kinds, strict=True)]]
    for what in ("method", "encoder"):
        values = [card.get(what, {}).get("name", "") for card in cards]
        parts += [values] if len(set(values)) > 1 else []
    parts += [[f"C={card.get('budget', 0):,}" for card in cards]] if len({card.get("budget") for card in cards}) > 1 else []
    names = [", ".join(filter(None, each)) for each in zip(*parts, strict=True)]
    # Whatever else may differ, two lines of a table have two names.
    by_folder = [f"{name} ({kinds[i][0][1].parent.name})" for i, name in enumerate(names)]
    by_path = [f"{name} ({kinds[i][0][1]})" for i, name in enumerate(names)]
    longer = [folder if by_folder.count(folder) == 1 else path for folder, path in zip(by_folder, by_path, strict=True)]
    return [name if names.count(name) == 1 else other for name, other in zip(names, longer, strict=True)]


def _trained_on(card) -> str:
    if "mixture" not in card:
        # A published encoder's card names it.
        return str(card.get("name", ""))
    wanted = sum(source.get("unique", 0) for source in card.get("sources", {}).values())
    return f"{card['mixture']} N={wanted:,}"


def untrained(encoder: PretrainedEncoder, seed: int) -> PretrainedEncoder:
    """The same architecture with random weights, residual branches switched on."""
    found = untrained_encoder(encoder.module, Canvas(*encoder.shape), seed)
    return dataclasses.replace(encoder, variables=found.variables, card={})


def architectures(kinds: Sequence[Named]) -> list[tuple[str, PretrainedEncoder]]:
    """One encoder of each architecture and image shape among them, with a name for the floor."""
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


def score_table(kinds: dict[str, Kind], tasks: Sequence[str]) -> dict[tuple[str, str, str], Interval]:
    """Scores with intervals by (kind, task, evaluation); what could not be evaluated is not there."""
    table = {}
    for (name, kind), task in itertools.product(kinds.items(), tasks):
        for evaluation in kind[0][1].evaluations(task):
            found = score(kind, task, evaluation)
            if found:
                table[name, task, evaluation] = found
    return table


def comparisons(
    kinds: dict[str, Kind], floors: Sequence[str], tasks: Sequence[str]
) -> dict[tuple[str, str, str, str], Comparison]:
    """Differences by (a, b, task, evaluation).

    Each trained kind is compared with each floor, and with each other trained kind; of more than four with the first alone.
    """
    trained = [name for name in kinds if name not in floors]
    pairs = (
        list(itertools.combinations(trained, 2)) if len(trained) <= _ALL_PAIRS else [(name, trained[0]) for name in trained[1:]]
    )
    pairs = [(name, floor) for name in trained for floor in floors] + pairs
    found = {}
    for (a, b), task in itertools.product(pairs, tasks):
        shared = [name for name in kinds[a][0][1].evaluations(task) if name in kinds[b][0][1].evaluations(task)]
        for evaluation in shared:
            compared = difference(kinds[a], kinds[b], task, evaluation)
            if compared:
                found[a, b, task, evaluation] = compared
    return found
