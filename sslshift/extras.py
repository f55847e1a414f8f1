"""Dependencies that only a part of the package needs: imports on first use, and one sentence for what is missing.

`pip install sslshift` brings what `sslshift.losses`, `sslshift.models` and `sslshift.methods` need. The extra `study` brings
the rest, such as grain, pyarrow and matplotlib.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Modules that the extra brings and that no dependency of the package itself brings. JAX, Flax, Optax and Chex depend on others
# of the extra, such as orbax and scipy.
STUDY = (
    "array_record",
    "clu",
    "filelock",
    "grain",
    "jinja2",
    "matplotlib",
    "PIL",
    "pyarrow",
    "safetensors",
    "tensorflow_datasets",
    "threadpoolctl",
)


class MissingExtraError(ModuleNotFoundError):
    """Something needs the extra `study`, which is not installed; the message gives the command that installs it."""


@contextlib.contextmanager
def needs_study(what: str) -> Iterator[None]:
    """Turns the error of a missing module of the extra `study` into one sentence.

    Raises:
      MissingExtraError: a module of the extra is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A room's own error is replaced, too: the outermost name is the one that the user asked for.
        if (error.name or "").partition(".")[0] not in STUDY:
            raise
        raise MissingExtraError(
            f"{what} needs the extra `study` (there is no module {error.name}): pip install 'sslshift[study]'", name=error.name
        ) from error


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__`, which imports the module of a name when the name is first used.

    Args:
      package: name of the package.
      modules: module of each name, relative to the package.
    """

    # Python calls a package's `__getattr__` for names that it does not have (PEP 562).
    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with needs_study(f"{package}.{name}"):
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return __getattr__
