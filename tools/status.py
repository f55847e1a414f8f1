r"""Shows the state of all runs of a study: step, speed, time left, host, last sign of life, and last error.

    python -m tools.status results/quickstart
    python -m tools.status results/quickstart --watch
    python -m tools.status results --html=/var/www/status.html --watch
    python -m tools.status results --json

The first argument is the folder --out of a study, or a folder of several. The command only reads files, so that it runs on any
machine that sees the folder, while the study runs or afterwards. `--watch` shows the list again every few seconds; a terminal
shows what fits, the runs that need attention first.
"""

import json
import time
from pathlib import Path

from absl import flags
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sslshift.command import run_command
from sslshift.machines.status import StudyStatus, as_json, plain_text, read_status, status_page
from sslshift.storage import write

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", "results", "Folder --out of a study, or of several; as the first argument it needs no --folder=.")
flags.DEFINE_bool("watch", False, "Show the state again every --every seconds, until Ctrl-C; in a pipe, it is shown once.")
flags.DEFINE_integer("every", 5, "Seconds between two looks at the folder.", lower_bound=1)
flags.DEFINE_integer("stalled_after", 300, "Seconds without a sign of life after which a run counts as stalled.", lower_bound=1)
flags.DEFINE_string(
    "html", "", "File for a page that a browser loads again every --every seconds; --watch keeps it up to date."
)
flags.DEFINE_bool("json", False, "Print all values as JSON in place of a table.")


def _look() -> list[StudyStatus]:
    studies = read_status(Path(FLAGS.folder), FLAGS.stalled_after)
    if FLAGS.html:
        Path(FLAGS.html).absolute().parent.mkdir(parents=True, exist_ok=True)
        write(FLAGS.html, status_page(studies, FLAGS.every))
    return studies


def _lines(studies: list[StudyStatus], most: int | None) -> list[str]:
    summaries = [each.summary() for each in studies]
    return [*summaries, "", *plain_text(studies, None if most is None else max(1, most - len(summaries) - 2))]


def _watch(console: Console) -> None:
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            lines = _lines(_look(), console.height)
            live.update(Group(*(Text(line, no_wrap=True, overflow="crop") for line in lines)), refresh=True)
            time.sleep(FLAGS.every)


def main() -> None:
    console = Console(emoji=False, highlight=False)
    if FLAGS.watch and console.is_terminal and not FLAGS.json:
        _watch(console)
        return
    studies = _look()
    if FLAGS.json:
        print(json.dumps(as_json(studies), indent=2))
    else:
        print("\n".join(_lines(studies, None)))
    while FLAGS.watch and FLAGS.html:
        time.sleep(FLAGS.every)
        _look()


if __name__ == "__main__":
    run_command(main, positional="folder")
