"""Folders that remember: what was asked (`record.json`) and, once it is known, the answer (`result.json`)."""

import json
from collections.abc import Callable
from pathlib import Path


def remembered(folder: Path, record: dict, compute: Callable[[], dict]) -> dict:
    """The result in a folder, computed if it is not there yet.

    Raises:
      ValueError: the folder was made for another record; the message names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = json.loads(json.dumps(record))
    asked = folder / "record.json"
    # A record alone holds no work: its computation failed before anything was kept, perhaps for a setting mended since.
    if asked.exists() and any(path != asked for path in folder.iterdir()):
        difference = _difference(json.loads(asked.read_text()), record)
        if difference:
            raise ValueError(
                f"{folder} was made by another configuration ({difference}); give another --out, or delete that folder."
            )
    else:
        write_atomically(asked, json.dumps(record, indent=2) + "\n")
    answer = folder / "result.json"
    if not answer.exists():
        write_atomically(answer, json.dumps(compute(), indent=2) + "\n")
    return json.loads(answer.read_text())


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the whole new one, also when the process is killed or the disk full."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _difference(old: dict, new: dict) -> str:
    old, new = _flat(old), _flat(new)
    names = [name for name in old | new if old.get(name) != new.get(name)]
    return "; ".join(f"{name}: {old.get(name)} there, {new.get(name)} now" for name in names)


def _flat(record: dict, prefix: str = "") -> dict:
    """Nested objects, and lists of them, as one level of dotted names: a difference names the setting and not all around it."""
    flat = {}
    for name, value in record.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            value = dict(enumerate(value))
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat
