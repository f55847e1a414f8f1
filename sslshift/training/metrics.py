"""Training metrics as JSON lines, one object per step. The only file that writes them."""

import json
import statistics
from pathlib import Path


class MetricsWriter:
    """Appends `{"step": ..., name: value, ...}` lines to a file.

    A resumed run drops what was logged after its checkpoint, so the file of a killed run ends up like any other.
    """

    def __init__(self, path: Path, *, keep_steps: int):
        kept = [line for line in _whole_lines(path) if line["step"] <= keep_steps]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        path.with_suffix(".part").write_text(text)
        path.with_suffix(".part").replace(path)
        self._file = path.open("a", buffering=1)

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **scalars}) + "\n")

    def close(self) -> None:
        self._file.close()


def loss_trend(path: Path) -> tuple[float, float]:
    """Mean loss over the first and over the last twentieth (at least one) of the steps in a metrics file."""
    losses = [line["loss"] for line in _whole_lines(path)]
    count = max(1, len(losses) // 20)
    return statistics.fmean(losses[:count]), statistics.fmean(losses[-count:])


def _whole_lines(path: Path) -> list[dict]:
    """The lines of a metrics file; one cut off by a kill ends the list."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
