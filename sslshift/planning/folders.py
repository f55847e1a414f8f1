"""Folders of studies: the names, mixtures and speeds that they keep beside their tables of results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from sslshift.storage import read_json

# Files that a study keeps beside its table.
_NAMES = "names.json"
_TIMING = "timing.json"


class Folders(NamedTuple):
    """Facts that folders of studies keep beside their results.

    Attributes:
      names: name of each source by its URI, where a study gives one.
      mixtures: candidates of the tables that mix several sources.
      samples_per_second: speed of training in all calls of the studies; None if no folder says it.
    """

    names: Mapping[str, str] = MappingProxyType({})
    mixtures: tuple[str, ...] = ()
    samples_per_second: float | None = None


def read_folders(paths: Sequence[Path]) -> Folders:
    """Reads the files beside the tables of results; a folder without them adds nothing.

    Args:
      paths: folders of studies, folders of such folders, or CSV files.

    Raises:
      ValueError: a file is damaged, or two sources have one name.
    """
    names: dict[str, str] = {}
    mixtures: dict[str, None] = {}
    for content in _contents(paths, _NAMES):
        for uri, name in content["sources"].items():
            other = next((each for each, taken in names.items() if taken == name and each != uri), None)
            if other or names.get(uri, name) != name:
                raise ValueError(
                    f"The studies do not agree on names: {uri} is called {name}, and "
                    f"{f'so is {other}' if other else f'also {names[uri]}'}. Give each source one name in --sources, and give "
                    "the studies' commands again with --report_only."
                )
            names[uri] = name
        mixtures |= dict.fromkeys(content["mixtures"])
    samples = seconds = 0.0
    for content in _contents(paths, _TIMING):
        for call in content["calls"]:
            if call.get("samples") and call.get("samples_per_second"):
                samples += call["samples"]
                seconds += call["samples"] / call["samples_per_second"]
    return Folders(names, tuple(mixtures), samples / seconds if seconds else None)


def _contents(paths: Sequence[Path], name: str) -> Iterable[Any]:
    """Yields the content of a file in each folder and in the folders directly below it."""
    for path in paths:
        if path.is_dir():
            for file in [path / name, *sorted(path.glob(f"*/{name}"))]:
                if file.exists():
                    yield read_json(file)
