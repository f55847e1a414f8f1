"""Leaks in an evaluation of finished encoders: test images among the sources that the encoders' cards name."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sslshift.data.sources import Source
from sslshift.reporting import csv_text
from sslshift.transfer.leaks import LeakFinder, SourceLeaks
from sslshift.transfer.tasks import Task

_HEAD = ("task", "source", "source_index", "test_index", "distance", "how", "source_image", "test_image")


class MatrixLeaks:
    """The leaks that were found, as sentences and as a table.

    Attributes:
      sentences: sentences without their full stop, warnings first.
      rows: pairs of images for `leaks.csv`.
    """

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.rows: list[tuple] = []

    @property
    def csv(self) -> str:
        """The pairs as CSV."""
        return csv_text(_HEAD, self.rows)


def sources_of(card: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Returns the sources that a card names by URI, each with the facts that are stated; empty if it names none.

    An encoder whose training continued from another one (`--init`) has seen the sources of both.
    """
    sources = card.get("sources") or {}
    before = card.get("init")
    seen = sources_of(before) if isinstance(before, Mapping) else {}
    # An encoder that a study trains for distances states the URIs alone.
    return seen | (dict(sources) if isinstance(sources, dict) else {str(uri): {} for uri in sources})


def _names_all(card: Mapping[str, Any]) -> bool:
    """Returns whether a card, and that of the encoder that its training continued from, say which images were seen."""
    before = card.get("init")
    return bool(card.get("sources")) and (not before or (isinstance(before, Mapping) and _names_all(before)))


def find_matrix_leaks(
    cards: Mapping[str, Sequence[Mapping[str, Any]]], tasks: Sequence[Task], opened: Callable[[str], Source]
) -> MatrixLeaks:
    """Searches the sources of encoders for the test images of tasks.

    Args:
      cards: cards of the encoders of each kind, by its name.
      tasks: the tasks.
      opened: opens a source by its URI.
    """
    found = MatrixLeaks()
    by_kind = {kind: {uri for card in each for uri in sources_of(card)} for kind, each in cards.items()}
    unnamed = [kind for kind, each in cards.items() if not all(map(_names_all, each))]
    sources = {uri: facts for each in cards.values() for card in each for uri, facts in sources_of(card).items()}
    opened = functools.cache(opened)
    unknown = []
    for task in tasks:
        test, indices = task.test
        finder = LeakFinder(test, indices, colour=task.canvas.channels > 1, note=found.sentences.append)
        for uri, facts in sources.items():
            try:
                source = opened(uri)
            except (ValueError, OSError) as error:
                unknown.append(f"{uri} cannot be opened here ({str(error).rstrip('.')})")
                continue
            why = finder.why_not(source)
            leaks = SourceLeaks() if source.shares_none_with(test) else SourceLeaks(why=why) if why else finder.among(source)
            if leaks.why:
                unknown.append(f"{uri} was not searched, because {leaks.why}")
            elif leaks.count:
                found.rows += [(task.name, uri, *pair) for pair in leaks.pairs]
                kinds = _some([kind for kind, uris in by_kind.items() if uri in uris])
                found.sentences.append(
                    f"WARNING: {task.name}: {leaks.sentence(uri, len(indices))}; accuracies of encoders that were pretrained "
                    f"on it ({kinds}) may be too high{_changed(source, facts)}; leaks.csv lists the pairs"
                )
    found.sentences += [f"It is not known whether test images were pretrained on: {why}" for why in dict.fromkeys(unknown)]
    if unnamed:
        found.sentences.append(
            f"It is not known whether test images were pretrained on by {_some(unnamed)}: no card says which images it saw, or "
            "those that the encoder saw that its training continued from"
        )
    return found


def _some(kinds: Sequence[str]) -> str:
    return "; ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")


def _changed(source: Source, facts: Mapping[str, Any]) -> str:
    """Returns a remark if a source is not as the encoder saw it: studies withhold the test images of their own task."""
    if facts.get("fingerprint") in (None, source.fingerprint):
        return ""
    return "; the source has changed since, or its study withheld some images, such as its own test images"
