"""The command `sslshift`: every tool and every experiment as a subcommand, from any folder.

sslshift                             # the subcommands, one line each
sslshift quickstart                  # as python -m experiments.quickstart in a checkout
sslshift shift --target=... --help   # as python -m tools.shift
"""

import ast
import difflib
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

from sslshift.extras import MissingExtraError, needs_study

# Folders of commands in a checkout. An installed package has them as `sslshift.tools` and `sslshift.experiments`, so that no
# package with such a general name is added to the user's environment.
_FOLDERS = {"experiments": "Experiments", "tools": "Tools"}


class Command(NamedTuple):
    """A module that `python -m` runs.

    Attributes:
      module: full name of the module.
      group: title of the group that the command belongs to.
      about: first line of the module's docstring.
    """

    module: str
    group: str
    about: str


def commands() -> dict[str, Command]:
    """Returns every tool and experiment by the name of its subcommand. Reads the files without importing them."""
    found = {}
    for folder, group in _FOLDERS.items():
        package, path = _package(folder)
        for file in sorted(path.glob("*.py")):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            # A module without this block is imported by other modules and is no command.
            if any(isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body):
                about = (ast.get_docstring(tree) or "").partition("\n")[0]
                found[file.stem] = Command(f"{package}.{file.stem}", group, about)
    return found


def _package(folder: str) -> tuple[str, Path]:
    """Returns the name of a package of commands, and its folder: installed, or beside the package in a checkout."""
    installed = importlib.util.find_spec(f"sslshift.{folder}")
    if installed is not None and installed.submodule_search_locations:
        return installed.name, Path(next(iter(installed.submodule_search_locations)))
    return folder, Path(__file__).parent.parent / folder


def main() -> None:
    """Runs the subcommand that the first argument names; without an argument, lists all subcommands."""
    known = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print(_listing(known))
        return
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}?" if near else "sslshift --help lists them."
        print(f"Expected the name of a tool or experiment, got {name!r}. {hint}", file=sys.stderr)
        sys.exit(2)
    module = known[name].module
    if not module.startswith("sslshift."):
        # In a checkout, the commands are in the folder above the package, which need not be the working directory.
        sys.path.insert(0, str(Path(__file__).parent.parent))
    # The module runs as under `python -m`, so that the subcommand reads its own flags.
    sys.argv = [f"sslshift {name}", *sys.argv[2:]]
    try:
        with needs_study(f"sslshift {name}"):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except MissingExtraError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _listing(known: dict[str, Command]) -> str:
    lines = ["Usage: sslshift NAME [--flag=value ...]; sslshift NAME --help lists the flags."]
    width = max(map(len, known))
    for group in dict.fromkeys(command.group for command in known.values()):
        lines += ["", f"{group}:"]
        lines += [f"  {name:{width}}  {command.about}" for name, command in known.items() if command.group == group]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
