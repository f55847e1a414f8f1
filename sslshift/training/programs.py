"""Compiled programs a process holds: each takes memory maps, of which Linux grants a process 65,530 (`vm.max_map_count`)."""

import gc
from pathlib import Path

import jax

__all__ = ["bound_programs"]


def bound_programs(most: int = 40_000) -> bool:
    """Forgets all compiled programs where the process holds more than `most` memory maps; what is needed is compiled anew.

    A program on a CPU takes about nine maps. At the kernel's limit the next compilation ends in a segmentation fault, which
    nothing catches: a study of many methods and encoders calls this between its runs.

    Example:
      >>> bound_programs()
      False

    Returns:
      Whether they were forgotten. Where the system does not list its maps (macOS), never.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") <= most:
        return False
    jax.clear_caches()
    gc.collect()
    return True
