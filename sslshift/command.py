"""Command lines: flags, the one grammar of settings, and errors in one sentence."""

import contextlib
import errno
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from sslshift import cluster
from sslshift.cache import kept_programs
from sslshift.clock import Clock, process_age
from sslshift.stopping import Stop, StoppedError

# Without this line, the --help of a command would also list the flags of this module.
flags.disclaim_key_flags()


def run_command(
    main: Callable[[], None], folder: Callable[[], str] | None = None, *, positional: str = "", trailing: str = ""
) -> None:
    """Runs a command whose flags are defined.

    Args:
      main: function that reads the flags and does the work.
      folder, positional, trailing: see `command_line`.
    """
    with command_line(folder, positional=positional, trailing=trailing) as clock, clock.part("work"):
        main()


@contextlib.contextmanager
def command_line(
    folder: Callable[[], str] | None = None, *, positional: str = "", trailing: str = "", stop: Stop | None = None
) -> Iterator[Clock]:
    """Parses the flags, yields a clock, and reports an error of the block in one sentence on stderr.

    The last line on stderr gives the seconds of the command by part. The process ends with code 1 after an error, 2 after a
    mistake in the flags, 130 after an interruption, and 0 after a signal to stop (see `sslshift.stopping`). With the flags of
    `define_cluster_flags`, the process joins its cluster first; what ends one process then ends all of them.

    Args:
      folder: function that returns the folder for `error.log`, which keeps the traceback of an error. Without a folder, or with
        an empty name, only an unexpected error shows its traceback.
      positional: name of the flag that the first argument sets if it has no dash; if empty, every argument is a flag.
      trailing: name of a flag with several values that gets every argument after `--`, such as another command.
      stop: the request that a signal makes; None: a signal ends the block at once.
    """
    _parse(_named(sys.argv, positional, trailing))
    logging.use_absl_handler()
    # Without this line, JAX and matplotlib report every backend and font that they do not find.
    logging.set_verbosity(logging.WARNING)
    # Damaged image files are reported by the sources that read them, beside which Pillow's own warnings are noise.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    clock = Clock()
    try:
        _set_autotuning(flags.FLAGS.autotune_level)
        _join()
        with (stop or Stop()).listening(), kept_programs(flags.FLAGS.compilation_cache, _note):
            clock = Clock(process_age())
            with clock.running():
                yield clock
        cluster.leave()
        _show_timing(clock)
    except StoppedError as stopped:
        # Nothing has failed: the command did what the signal asked for.
        _end(str(stopped), 0)
    except KeyboardInterrupt:
        _end("Stopped. Commands that keep their results continue when they are given again.", 130)
    except Exception as error:
        # Errors that the package raises on purpose are whole sentences; other errors need their type to be understood.
        known = isinstance(error, ValueError | RuntimeError | OSError)
        details = _keep_traceback(Path(folder())) if folder and folder() and cluster.is_first() else ""
        # After a mistake in the input, only the error is of interest.
        if clock.samples:
            _show_timing(clock)
        if not known and not details:
            traceback.print_exc()
        _end(f"\nError: {describe_system_error(error) or (error if known else repr(error))}{details}", 1)


def _end(message: str, code: int) -> NoReturn:
    if cluster.process_count() > 1:
        cluster.end(message.strip(), code)
    print(message, file=sys.stderr)
    sys.exit(code)


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags that every command has, unless they are defined."""
    if "compilation_cache" in values:
        return
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "Folder that keeps compiled programs for later commands, up to 2 GiB; default: sslshift/compilation in the user's "
        "cache folder, or JAX_COMPILATION_CACHE_DIR; empty: programs are not kept.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "autotune_level",
        None,
        "On GPUs, the effort with which XLA searches for the fastest kernels, from 0 (none, which compiles faster but may "
        "train slower) to 4; default: XLA's own. The effect on this package has not been measured.",
        lower_bound=0,
        upper_bound=4,
        flag_values=values,
    )
    for name in ("compilation_cache", "autotune_level"):
        # --help shows the flags of the program, not those of this module.
        values.register_key_flag_for_module(sys.argv[0], values[name])


# Seconds in which all processes must have joined, unless --join_timeout says otherwise.
_JOIN_TIMEOUT = 300


def define_cluster_flags() -> None:
    """Defines the flags of a command that can run as several processes, see `sslshift.cluster`."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "Run as one of several processes, which must all be given the same command. The cluster is found on TPU pods, under "
        "Slurm (srun) and under Open MPI (mpirun).",
    )
    flags.DEFINE_string(
        "coordinator_address",
        "",
        "On a cluster that --distributed does not find: HOST:PORT of process 0. The port and the one after it must be "
        "free, and reachable by the other hosts alone.",
    )
    flags.DEFINE_integer("num_processes", None, "With --coordinator_address: the number of processes.")
    flags.DEFINE_integer("process_id", None, "With --coordinator_address: the number of this process, from 0.")
    flags.DEFINE_float("join_timeout", _JOIN_TIMEOUT, "Seconds in which all processes must have joined.", 1, 86_400)


def _join() -> None:
    """Joins the other processes if the flags say so."""
    if "distributed" not in flags.FLAGS:
        return
    given = {name: flags.FLAGS[name].value for name in ("coordinator_address", "num_processes", "process_id")}
    missing = [f"--{name}" for name, value in given.items() if value in (None, "")]
    if len(missing) < len(given):
        if missing:
            raise ValueError(f"--coordinator_address, --num_processes and --process_id belong together; give {missing[0]} too.")
        cluster.join(cluster.ClusterPlace(*given.values()), flags.FLAGS.join_timeout)
    elif flags.FLAGS.distributed:
        cluster.join(None, flags.FLAGS.join_timeout)
    own = ("distributed", *given, "join_timeout", "compilation_cache")
    command = {f"--{name}": str(value) for name, value in flags.FLAGS.flag_values_dict().items() if name not in own}
    cluster.require_equal("the command", command, "Give all processes the same command.")


def _set_autotuning(level: int | None) -> None:
    if level is not None:
        # XLA reads the variable when the first array is made.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level={level}".strip()


def _note(text: str) -> None:
    if cluster.is_first():
        print(text, file=sys.stderr)


def _show_timing(clock: Clock) -> None:
    # On stderr, because programs read the output of some tools.
    _note(clock.timing().sentence())


def _named(argv: list[str], positional: str, trailing: str = "") -> list[str]:
    """Returns the arguments; the first becomes a flag if it is a bare value, and so do those after `--`."""
    if trailing and "--" in argv:
        place = argv.index("--")
        return [*_named(argv[:place], positional), *(f"--{trailing}={each}" for each in argv[place + 1 :])]
    if not positional or len(argv) < 2 or argv[1].startswith("-"):
        return argv
    return [argv[0], f"--{positional}={argv[1]}", *argv[2:]]


def _parse(argv: list[str]) -> None:
    """Parses the flags; ends the process if one is wrong, or after --help."""
    app.define_help_flags()
    define_flags(flags.FLAGS)
    try:
        rest = flags.FLAGS(argv)
    except BrokenPipeError:
        # The reader of --help, such as `head`, has read enough. Python would report the closed pipe once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except flags.Error as error:
        print(f"{error}\n(--help lists the flags and their defaults.)", file=sys.stderr)
        sys.exit(2)
    if len(rest) > 1:
        print(f"Expected flags written --name=value, got {rest[1]!r}.", file=sys.stderr)
        sys.exit(2)


def _keep_traceback(folder: Path) -> str:
    """Writes the traceback, and returns a remark with its path; the remark is empty if the file cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.log").write_text(traceback.format_exc())
    except OSError:
        return ""
    return f" (Details: {folder / 'error.log'})"


# Advice by the number of the system's error. Other errors get no advice, because wrong advice is worse than none.
_REMEDIES = {
    errno.ENOSPC: "Free some space and give the same command again.",
    errno.EDQUOT: "Free some space, or ask for a larger quota, and give the same command again.",
    errno.EFBIG: "Raise the system's limit on the size of a file (`ulimit -f` shows it) and give the same command again.",
    errno.EROFS: "The file system is mounted read-only: name a folder on another one, or have it mounted for writing.",
    errno.EACCES: "Change the permissions, or name another folder.",
    errno.EPERM: "Change the permissions, or name another folder.",
    errno.EMFILE: "Raise the system's limit on open files (`ulimit -n` shows it) and give the same command again.",
}


def remedy(error: BaseException) -> str:
    """Returns one sentence that says what to do about an error of the operating system, or "" for other errors.

    Libraries wrap the system's error in their own. This function therefore searches all causes of
    the error, and their texts, for the number.

    Example:
      >>> remedy(OSError(errno.ENOSPC, "No space left on device"))
      'Free some space and give the same command again.'
      >>> remedy(ValueError("a programming error"))
      ''
    """
    for cause in causes(error):
        # TensorStore reports the system's number in the text of its own error.
        written = re.search(r"os_error_code='(\d+)'", str(cause))
        number = int(written[1]) if written else getattr(cause, "errno", None)
        if number in _REMEDIES:
            return _REMEDIES[number]
    return ""


def describe_system_error(error: BaseException) -> str:
    """Returns a sentence for an error of the operating system itself that has a remedy, or "" for other errors.

    Example:
      >>> describe_system_error(OSError(errno.ENOSPC, "No space left on device", "results/scores.csv"))
      'results/scores.csv cannot be written: No space left on device. Free some space and give the same command again.'
    """
    if not (isinstance(error, OSError) and error.errno in _REMEDIES):
        return ""
    # Without permission, or with too many open files, a file can often not even be read.
    done = "opened" if error.errno in (errno.EACCES, errno.EPERM, errno.EMFILE) else "written"
    return f"{error.filename or 'A file'} cannot be {done}: {os.strerror(error.errno)}. {_REMEDIES[error.errno]}"


def causes(error: BaseException) -> list[BaseException]:
    """Returns an error and the errors that it was raised from, from the last to the first."""
    # The list guards against cycles: an error can be among its own causes.
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or (None if step.__suppress_context__ else step.__context__)
    return chain


def parsed(name: str, text: str, default: Any) -> Any:
    """Returns a setting's value from its text, in the type of its default.

    Example:
      >>> parsed("--head", "512,128", (0,)), parsed("rate", "1e-3", 0.1), parsed("norm", "true", False)
      ((512, 128), 0.001, True)

    Args:
      name: name of the setting, for the error.
      text: text that the user typed.
      default: true or false, a number, text, or a tuple. The values of a tuple have the type of its first value; whole
        numbers in a tuple are widths or counts, and must be above 0.

    Raises:
      ValueError: the text is not a value of that type.
    """
    try:
        if isinstance(default, bool):
            # `bool("false")` is true, so the words are compared.
            return {"true": True, "false": False}[text.strip().lower()]
        if isinstance(default, tuple):
            kind = type(default[0])
            values = tuple(kind(part) for part in text.split(","))
            if kind is int and min(values) < 1:
                raise ValueError
            return values
        return type(default)(text)
    except (ValueError, KeyError):
        several = "whole numbers above 0" if isinstance(default, tuple) and isinstance(default[0], int) else "numbers"
        kinds = {bool: "true or false", tuple: f"{several} separated by ','", int: "a whole number", float: "a number"}
        raise ValueError(f"Expected {kinds[type(default)]} for {name}, got {text!r}.") from None


def settings(text: str, *, flag: str, names: Collection[str] | None = None) -> dict[str, str]:
    """Returns `name=value; name=value` as texts by name: the one grammar of settings.

    Example:
      >>> settings("temperature=0.1; predictor=512,512", flag="--method_options")
      {'temperature': '0.1', 'predictor': '512,512'}

    Args:
      text: text that the user typed. Blanks around names and values, and empty parts, are ignored.
      flag: flag that the text belongs to, for the error.
      names: names that are allowed; None allows every name.

    Raises:
      ValueError: a part has no '=', or a name is not expected or given twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name:
            raise ValueError(f"Expected {flag} as 'name=value; name=value', got {part!r}.")
        if names is not None and name not in names:
            raise ValueError(f"{flag}: expected one of {', '.join(names)}, got {name!r}.")
        if name in found:
            raise ValueError(f"{flag}: {name} is set twice.")
        found[name] = value
    return found
