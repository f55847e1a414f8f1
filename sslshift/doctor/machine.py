"""Checks of the machine: versions, devices, cores, folders and settings."""

import os
import shutil
import tempfile
from pathlib import Path

import jax

from sslshift.doctor.findings import FAILED, PASS, SLOW, Check, Finding
from sslshift.reporting.environment import versions
from sslshift.storage import lock, write

_GIB = 1 << 30
# Files of drivers: an accelerator is in the machine even if JAX does not see it.
_DRIVERS = {"/dev/nvidiactl": "an NVIDIA GPU", "/dev/kfd": "an AMD GPU", "/dev/accel0": "a TPU"}
# Beginnings of environment variables that change numbers or speed.
_VARIABLES = ("XLA_", "JAX_", "LIBTPU_", "NVIDIA_TF32", "CUDA_VISIBLE", "OMP_NUM", "OPENBLAS_NUM", "MKL_NUM")
# Settings of JAX that make everything slow or change the dtypes of results.
_SETTINGS = ("jax_disable_jit", "jax_disable_most_optimizations", "jax_debug_nans", "jax_enable_checks", "jax_enable_x64")


def check_versions(folder: Path) -> Finding:
    """Returns the versions of Python and of the packages that compute."""
    del folder
    return Finding(PASS, ", ".join(f"{name} {version}" for name, version in versions().items()))


def check_devices(folder: Path) -> Finding:
    """Returns the devices and their memory; slow if JAX does not use an accelerator whose driver is installed."""
    del folder
    found = jax.devices()
    # A CPU reports no memory of its own.
    limit = (found[0].memory_stats() or {}).get("bytes_limit")
    figure = f"{len(found)} x {found[0].device_kind} ({jax.default_backend()})" + (f", {limit / _GIB:.0f} GiB" if limit else "")
    there = [name for path, name in _DRIVERS.items() if Path(path).exists()]
    if jax.default_backend() == "cpu" and there:
        return Finding(SLOW, figure, f'There is {there[0]} that JAX does not use: install JAX for it, e.g. "jax[cuda13]".')
    return Finding(PASS, figure)


def check_cores(folder: Path) -> Finding:
    """Returns the cores of this process and the machine's memory; slow if other processes occupy the cores."""
    del folder
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    figure = f"{cores} cores"
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        figure += f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.0f} GiB of memory"
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > cores:
        return Finding(SLOW, f"{figure}, load {load:.1f}", "Other processes occupy the cores: speeds below are too low.")
    return Finding(PASS, figure)


def check_folder(folder: Path) -> Finding:
    """Returns whether files can be written, replaced and locked in a folder, and the free space there."""
    with tempfile.TemporaryDirectory(prefix="doctor-", dir=folder) as name:
        path = Path(name) / "file"
        with lock(Path(name) / "lock"):
            write(path, "old")
            write(path, "new")
        if path.read_text() != "new":
            raise RuntimeError(f"A file that was replaced in {folder} still has its old content.")
    free = shutil.disk_usage(folder).free / _GIB
    figure = f"{folder.absolute()}: {free:,.0f} GiB free"
    # The two checkpoints of a ViT-B with its optimiser take about this much.
    if free < 2:
        return Finding(FAILED, figure, "Free at least 2 GiB, or name a folder on another file system with --out.")
    return Finding(PASS, figure)


def check_settings(folder: Path) -> Finding:
    """Returns the settings of JAX and XLA in the environment; slow if one of them slows everything down."""
    del folder
    there = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)]
    figure = " ".join(there) or "no variables of JAX or XLA are set"
    costly = [name for name in _SETTINGS if getattr(jax.config, name, False)]
    if costly:
        return Finding(SLOW, figure, f"Unset {', '.join(costly)} for real runs: it is for finding errors, or changes dtypes.")
    return Finding(PASS, figure)


def check_cache(folder: Path) -> Finding:
    """Returns the folder of compiled programs; slow if there is none, because every command then compiles everything anew."""
    del folder
    place = jax.config.jax_compilation_cache_dir
    if not place:
        return Finding(SLOW, "compiled programs are not kept", "Name a folder that can be written with --compilation_cache.")
    return Finding(PASS, f"compiled programs are kept in {place}")


CHECKS: dict[str, Check] = {
    "machine/versions": check_versions,
    "machine/devices": check_devices,
    "machine/cores": check_cores,
    "machine/settings": check_settings,
    "machine/folder": check_folder,
    "machine/cache": check_cache,
}
