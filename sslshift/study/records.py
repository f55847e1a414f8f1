"""Folders that remember: what was asked (`record.json`) and, once it is known, the answer (`result.json`)."""

import contextlib
import contextvars
import json
from collections.abc import Callable, Iterator
from pathlib import Path

# What a failed computation leaves behind for people; it binds a folder to nothing.
FAILED = "failed.json"
ERROR_LOG = "error.log"

_reading = contextvars.ContextVar("reading", default=False)


class NotThereError(RuntimeError):
    """A result is asked for that is not there, where nothing is to be computed."""


class OtherConfigurationError(ValueError):
    """A folder was made for another record."""


@contextlib.contextmanager
def only_reading() -> Iterator[None]:
    """Within it `remembered` computes and writes nothing: what is not there raises `NotThereError`."""
    token = _reading.set(True)
    try:
        yield
    finally:
        _reading.reset(token)


def recalled(folder: Path, record: dict) -> dict | None:
    """The result in a folder, None if there is none yet.

    Raises:
      OtherConfigurationError: the folder was made for another record; the message names what differs.
    """
    asked = folder / "record.json"
    answer = folder / "result.json"
    if asked.exists() and _holds_work(folder):
        difference = _difference(read_json(asked), json.loads(json.dumps(record)))
        if difference:
            raise OtherConfigurationError(
                f"{folder} was made by another configuration ({difference}); give another --out, or delete that folder."
            )
        return read_json(answer) if answer.exists() else None
    return None


def remembered(folder: Path, record: dict, compute: Callable[[], dict]) -> dict:
    """The result in a folder, computed if it is not there yet.

    Raises:
      OtherConfigurationError: the folder was made for another record; the message names what differs.
      NotThereError: there is none, within `only_reading`.
    """
    known = recalled(folder, record)
    if known is not None:
        return known
    require_computing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "record.json", json.dumps(record, indent=2) + "\n")
    write_atomically(folder / "result.json", json.dumps(compute(), indent=2) + "\n")
    return json.loads((folder / "result.json").read_text())


def require_computing(folder: Path) -> None:
    """Raises NotThereError within `only_reading`."""
    if _reading.get():
        raise NotThereError(f"{folder} holds no result yet.")


def read_json(path: Path) -> dict:
    """What a file of ours holds.

    Raises:
      ValueError: it holds no JSON, e.g. after the machine lost its power.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it, and the same command makes it again.") from error


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either the old one or the whole new one, also when the process is killed or the disk full."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _holds_work(folder: Path) -> bool:
    """A record alone holds no work: its computation failed before anything was kept, perhaps for a setting mended since."""
    return any(path.name not in ("record.json", FAILED, ERROR_LOG) for path in folder.iterdir())


def _difference(old: dict, new: dict) -> str:
    old = _flat(old)
    new = _flat(new)
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
