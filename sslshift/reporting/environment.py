"""What a study ran with: versions, devices, and the command that gives it again."""

import dataclasses
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

import jax

from sslshift.study.declare import Study

_PACKAGES = ("sslshift", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Returns the versions of what computed, by name. A package that runs without being installed has none."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown, since it is not installed"


def devices() -> str:
    """What it ran on, e.g. `8 x cpu`."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}"


def command(study: Study) -> str:
    """The command line with every flag: it holds also where an experiment's defaults change."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else "experiments.quickstart"
    parts = [f"python -m {module}"]
    for name, value in dataclasses.asdict(study).items():
        values = value if isinstance(value, tuple) else (value,)
        parts += [shlex.quote(f"--{name}={each}") for each in values]
    return " \\\n  ".join(parts)
