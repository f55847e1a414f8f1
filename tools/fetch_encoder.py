r"""Fetches the weights of a well-known encoder, and keeps them only if their digest is correct.

    python -m tools.fetch_encoder dinov2-small --out=/data/encoders
    python -m tools.fetch_encoder dinov2-small --out=/data/encoders --url=https://mirror.example/dinov2-small.safetensors
    python -m tools.fetch_encoder dinov2-reg --out=/data/encoders --url=https://... --sha256=...

No other command of the project fetches weights. A file with another digest is deleted. `--help` lists the names with sizes and
licences; `sslshift.models.reference.load_reference` loads the file, and its card gives the origin.
"""

from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from sslshift.command import run_command
from sslshift.models.reference.fetching import KNOWN, fetch, find_download
from sslshift.models.reference.files import sha256
from sslshift.reporting.progress import LogLines
from sslshift.storage import whole_file

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "name",
    "",
    "Encoder to fetch, or a new name for one with --url and --sha256; as the first argument it needs no --name=. "
    f"Known names: {KNOWN}.",
)
flags.DEFINE_string("out", ".", "Folder to write NAME.safetensors to.")
flags.DEFINE_string("url", "", "Address of the file; empty: the known address.")
flags.DEFINE_string("sha256", "", "Digest that the file must have; required for a new name.")


def main() -> None:
    download = find_download(FLAGS.name, FLAGS.url, FLAGS.sha256.lower())
    file = Path(FLAGS.out).expanduser() / download.file
    console = Console(emoji=False)
    if file.exists():
        if sha256(file) != download.sha256:
            raise ValueError(
                f"{file} exists, and its digest is not {download.sha256}; remove the file, or name another folder with --out."
            )
        outcome = "is there already"
    else:
        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
        file.parent.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
            bar = bars.add_task(FLAGS.name, total=download.size)
            lines = LogLines(console)

            def on_bytes(done: int) -> None:
                bars.update(bar, completed=done)
                lines.show(f"fetching {FLAGS.name}", done, download.size, "in bytes")

            with whole_file(file) as target:
                fetch(download, target, on_bytes)
        outcome = "fetched"
    licence = f", {download.licence}" if download.licence else ""
    console.print(f"{file}: {outcome}{licence}, sha256 {download.sha256}", highlight=False, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run_command(main, positional="name")
