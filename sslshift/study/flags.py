"""From the command line to a study: every field of `Study` is a flag, and the errors a user can cause are one sentence."""

import dataclasses
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from sslshift.study.declare import Study

# --help of an experiment lists its flags, though they are defined here.
flags.disclaim_key_flags()

_DEFINE = {str: flags.DEFINE_string, int: flags.DEFINE_integer, float: flags.DEFINE_float}


def run_experiment(defaults: Study, run: Callable[[Study], None]) -> None:
    """Runs an experiment's `main`: its study, overridden by flags.

    Exit codes: 0 done, 1 the study could not be done (one sentence on stderr, the traceback in OUT/error.log), 2 flags, 130
    interrupted.
    """
    for field in dataclasses.fields(defaults):
        _DEFINE[field.type](field.name, getattr(defaults, field.name), field.metadata["help"])
    app.run(lambda argv: sys.exit(_run(argv, run)), flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return app.parse_flags_with_usage(argv) if set(argv) & {"--help", "--helpfull", "-h", "-help"} else flags.FLAGS(argv)
    except flags.Error as error:
        print(f"{error}\n(--help lists the flags and their defaults.)", file=sys.stderr)
        sys.exit(2)


def _run(argv: list[str], run: Callable[[Study], None]) -> int:
    if len(argv) > 1:
        print(f"{argv[1]!r} is no flag; flags are written --name=value.", file=sys.stderr)
        return 2
    # JAX and matplotlib tell absl's log about every backend and font that they did not find.
    logging.set_verbosity(logging.WARNING)
    values = {field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(Study)}
    try:
        run(Study(**values))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    except Exception as error:
        # What the library raises on purpose is a sentence already; anything else at least gets its kind.
        known = isinstance(error, ValueError | RuntimeError | OSError)
        print(f"\nError: {error if known else repr(error)}{_keep_traceback(Path(values['out']))}", file=sys.stderr)
        return 1
    return 0


def _keep_traceback(out: Path) -> str:
    """Where the traceback was written, as a remark; empty if it could not be."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "error.log").write_text(traceback.format_exc())
    except OSError:
        return ""
    return f" (Details: {out / 'error.log'})"
