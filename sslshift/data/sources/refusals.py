"""Files that look like images and are not used: the file `refused.csv` with all of them, and the words with the first few."""

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sslshift import storage
from sslshift.data.sources.base import Refused

REFUSED = "refused.csv"
# Number of files that a sentence names.
_SHOWN = 3


def examples(refused: Iterable[Refused]) -> str:
    """Returns the first three files with their reasons.

    Example:
      >>> examples([Refused("a.heic", "the file is empty"), Refused("b.jpg", "it is not a regular file")])
      'a.heic (the file is empty); b.jpg (it is not a regular file)'
    """
    return "; ".join(f"{path} ({reason})" for path, reason in itertools.islice(refused, _SHOWN))


def write_refused(folder: Path, refused: Sequence[Refused]) -> None:
    """Writes `refused.csv` of a source that is made."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Refused._fields, *refused])
    storage.write(folder / REFUSED, text.getvalue())


def read_examples(folder: Path) -> str:
    """Returns the first three files in the `refused.csv` of a source, see `examples`; empty if it has none."""
    try:
        with (folder / REFUSED).open(encoding="utf-8", newline="") as file:
            return examples(Refused(row["path"], row["reason"]) for row in itertools.islice(csv.DictReader(file), _SHOWN))
    except (OSError, KeyError, csv.Error):
        # It is deleted, or of another program: the number is known from elsewhere.
        return ""


def list_refused(folder: Path, by_source: Mapping[str, Sequence[Refused]]) -> None:
    """Writes `refused.csv` of a command that reads several sources; an earlier file is removed if no file is refused.

    Args:
      folder: the command's folder of results, which exists.
      by_source: refused files by the name of their source.
    """
    rows = [(name, *each) for name, refused in by_source.items() for each in refused]
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([("source", *Refused._fields), *rows])
        storage.write(folder / REFUSED, text.getvalue())
    else:
        (folder / REFUSED).unlink(missing_ok=True)


def refused_sentence(name: str, refused: Sequence[Refused]) -> str:
    """Returns a sentence, without its full stop, on the refused files of a source, for commands that call `list_refused`."""
    are = "file is" if len(refused) == 1 else "files are"
    rest = f"; and {len(refused) - _SHOWN:,} more, listed in {REFUSED} of the results" if len(refused) > _SHOWN else ""
    return f"{name}: {len(refused):,} {are} refused and not counted: {examples(refused)}{rest}"
