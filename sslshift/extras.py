"""Dependencies that only a part of the package needs: imports on first use, and one sentence for what is missing.

`pip install sslshift` brings what `sslshift.losses`, `sslshift.models` and `sslshift.methods` need. The extra `study` brings
the rest, such as grain, pyarrow and matplotlib.
"""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
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


def needs_study(what: str, missing: str) -> ModuleNotFoundError:
    """Returns the error for something that needs the extra `study`, without a module of it."""
    sentence = f"{what} needs the extra `study` (the module {missing} is missing): pip install 'sslshift[study]'"
    return ModuleNotFoundError(sentence, name=missing)


def require_study(what: str) -> None:
    """Raises ModuleNotFoundError, with the command that installs the extra, unless every module of `study` can be imported.

    Finding a module does not import it: the check takes about a millisecond.
    """
    for module in STUDY:
        if importlib.util.find_spec(module) is None:
            raise needs_study(what, module)


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Returns a package's `__getattr__`, which imports the module of a name when the name is first used.

    Args:
      package: name of the package.
      modules: module of each name, relative to the package.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{modules[name]}")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in STUDY:
                raise
            raise needs_study(f"{package}.{name}", error.name) from error
        return getattr(module, name)

    return __getattr__
