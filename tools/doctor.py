r"""Checks this machine: whether every method, evaluation and distance works and is right here, and how fast a step is.

    python -m tools.doctor
    python -m tools.doctor --only="train/simclr,evaluate/*"
    python -m tools.doctor --json=doctor.json

Run it first on a new machine, after a new driver, and after another version of jax. It trains every method for 20 steps on
bundled images, stops and resumes each run, compares evaluations and distances with NumPy in float64, and times a training step
and the input pipeline. Prints a table of findings: pass, slow or failed, a figure, and what to do. The exit code is 1 if a
check failed. `slow` is no failure: results are right, but take longer than they should. Files are written to a temporary
folder in the folder --out, so that this file system is checked too, and are deleted afterwards.
"""

import os
from pathlib import Path

import jax
from absl import flags
from rich.console import Console

from sslshift.command import run_command
from sslshift.doctor import CHECKS, FAILED, PASS, SLOW, chosen, examined, table_of
from sslshift.reporting import print_table
from sslshift.storage import write_json

FLAGS = flags.FLAGS
flags.DEFINE_list("only", ["*"], f"Checks to make, separated by commas; * stands for any text. {', '.join(CHECKS)}.")
flags.DEFINE_string("out", "results", "Folder of the file system to check; it need not exist, and nothing stays there.")
flags.DEFINE_string("json", "", "File for the findings as JSON, with the tracebacks of errors; empty: none.")


def _existing(folder: Path) -> Path:
    """Returns the folder itself, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _threads() -> int:
    # Most of the time goes into compilation, which on an accelerator is limited by one core for each program. Programs of
    # several devices must not start at the same time: each device could start them in another order and wait for the rest.
    alone = jax.default_backend() == "cpu" or jax.device_count() > 1
    return 1 if alone else max(1, (os.cpu_count() or 1) // 4)


def main() -> None:
    checks = chosen(CHECKS, FLAGS.only)
    # Progress goes to stderr, so that stdout has the table alone.
    progress = Console(stderr=True, emoji=False, highlight=False)
    findings = {}
    for name, finding in examined(checks, _existing(Path(FLAGS.out).absolute()), _threads()):
        findings[name] = finding
        progress.print(f"{len(findings)} of {len(checks)}: {name} {finding.verdict}, {finding.seconds:.1f} s", markup=False)
    print_table(table_of(findings), Console(emoji=False, width=None if Console().is_terminal else 140))
    if FLAGS.json:
        write_json(FLAGS.json, {name: finding._asdict() for name, finding in findings.items()})
    counts = {verdict: sum(each.verdict == verdict for each in findings.values()) for verdict in (PASS, SLOW, FAILED)}
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    if counts[FAILED]:
        raise RuntimeError(f"{counts[FAILED]} of {len(findings)} checks failed.")


if __name__ == "__main__":
    run_command(main)
