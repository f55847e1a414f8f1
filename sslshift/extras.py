"""Optional dependencies: they are imported on first use, and a missing one is reported in one sentence.

`pip install sslshift` installs the dependencies of `sslshift.losses`, `sslshift.models` and `sslshift.methods`. The extra
`study` installs the others, such as grain, pyarrow and matplotlib.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Modules that only the extra installs. Other packages of the extra, such as orbax and scipy, are missing here, because Flax and
# JAX install them in any case.
STUDY = (
    "array_record",
    "clu",
    "filelock",
    "grain",
    "jinja2",
    "matplotlib",
    "PIL",
    "platformdirs",
    "pyarrow",
    "safetensors",
    "tensorflow_datasets",
    "threadpoolctl",
)


class MissingExtraError(ModuleNotFoundError):
    """The extra `study` is needed but not installed; the message gives the command that installs it."""


@contextlib.contextmanager
def needs_study(what: str) -> Iterator[None]:
    """Turns the error of a missing module of the extra `study` into one sentence.

    Raises:
      MissingExtraError: a module of the extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # This also replaces a MissingExtraError of an inner package: the user asked for the outermost name.
        if (error.name or "").partition(".")[0] not in STUDY:
            raise
        raise MissingExtraError(
            f"{what} needs the extra `study` (there is no module {error.name}): pip install 'sslshift[study]'", name=error.name
        ) from error


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__`, which imports the module of a name when the name is first used.

    Args:
      package: name of the package.
      modules: for each name, its module relative to the package.
    """

    # Python calls a package's `__getattr__` for names that it does not have (PEP 562).
    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needs_study(f"{package}.{name}"):
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return __getattr__
