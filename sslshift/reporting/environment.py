"""Versions of the packages and names of the devices that compute a result."""

import platform
from importlib.metadata import PackageNotFoundError, version

import jax

_PACKAGES = ("sslshift", "jax", "jaxlib", "flax", "optax", "grain", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Returns the versions of the packages that compute, by name. A package that is not installed gets a remark instead."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown, since it is not installed"


def devices() -> str:
    """Returns the devices of this process, e.g. `8 x cpu`."""
    found = jax.devices()
    return f"{len(found)} x {found[0].device_kind}"
