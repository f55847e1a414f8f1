"""Compiled programs that commands keep: the same bits, no error that stops a command, and a bound on their size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sslshift.cache import cache_folder, prune
from sslshift.clock import Clock

# Compiles two programs, loads them, damages them, compiles and writes them again, and loads them once more.
SCRIPT = """
import contextlib, json, sys
from pathlib import Path

import jax
import jax.numpy as jnp

from sslshift.cache import kept_programs
from sslshift.clock import Clock

folder = None if sys.argv[1] == "default" else sys.argv[1]
notes, rounds = [], []
x = jax.device_put(jnp.linspace(0, 1, 64))

def work(clock):
    jax.clear_caches()
    before = clock.timing()
    values = [jax.jit(lambda x: jnp.sin(x @ jnp.outer(x, x)))(x), jax.jit(lambda x: jnp.cumsum(jnp.exp(x)))(x)]
    after = clock.timing()
    bits = "".join(jax.device_get(value).tobytes().hex() for value in values)
    rounds.append([after.compiled - before.compiled, after.from_cache - before.from_cache, bits])

with kept_programs(folder, notes.append), Clock().running() as clock:
    work(clock)
    work(clock)
    for path in Path(sys.argv[2]).rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:99])
    work(clock)
    work(clock)
print(json.dumps([rounds, notes, jax.config.jax_compilation_cache_dir]))
"""


def run(folder, place, **environment):
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_C", "JAX_PERS"))}
    command = [sys.executable, "-c", SCRIPT, str(folder), str(place)]
    done = subprocess.run(command, env=variables | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rounds, notes, used = json.loads(done.stdout)
    bits = {each for *_, each in rounds}
    assert len(bits) == 1, "a loaded program gave other bits"
    return [tuple(each[:2]) for each in rounds], notes, used, done.stderr


def test_programs_are_loaded_and_damaged_ones_are_replaced_with_one_note(tmp_path):
    counts, notes, used, stderr = run("default", tmp_path, XDG_CACHE_HOME=str(tmp_path))
    cold, warm, damaged, repaired = counts
    assert cold[0] >= 2
    assert cold[1] == 0
    assert warm == repaired == (0, cold[0])
    assert damaged == cold
    (note,) = notes
    assert "--compilation_cache=DIR" in note
    assert "Error" not in stderr.replace(note, "")
    place = Path(used)
    assert place.parent == tmp_path / "sslshift/compilation"
    assert place.name.startswith(f"jax-{__import__('jax').__version__}-")
    assert place.stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_made_is_noted_once(tmp_path):
    (tmp_path / "file").write_text("")
    counts, notes, used, _ = run(tmp_path / "file", tmp_path)
    assert all(from_cache == 0 for _, from_cache in counts)
    (note,) = notes
    assert str(tmp_path / "file") in note
    assert used is None


@pytest.mark.parametrize("folder", ["default", ""])
def test_the_environment_decides_without_the_flag_and_an_empty_flag_keeps_nothing(tmp_path, folder):
    own = str(tmp_path / "own")
    variables = {"JAX_COMPILATION_CACHE_DIR": own} if folder else {}
    _, notes, used, _ = run(folder, tmp_path, XDG_CACHE_HOME=str(tmp_path), **variables)
    assert notes == []
    assert used == (own if folder else None)
    assert not (tmp_path / "sslshift").exists()


def test_pruning_keeps_what_was_used_last(tmp_path):
    for age, name in enumerate(["new", "sub/middle", "old"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    left = lambda: sorted(path.name for path in tmp_path.rglob("*") if path.is_file())  # noqa: E731
    prune(tmp_path, 300)
    assert left() == ["middle", "new", "old"]
    prune(tmp_path, 299)
    assert left() == ["middle", "new"]
    # Read after it was written: the older file stays.
    os.utime(tmp_path / "sub/middle", (2000, 500))
    prune(tmp_path, 100)
    assert left() == ["middle"]
    prune(tmp_path / "absent", 0)


def test_the_users_cache_folder(monkeypatch, tmp_path):
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert cache_folder("compilation") == tmp_path / "sslshift/compilation"


def test_importing_sslshift_sets_nothing():
    code = "import sslshift, jax, sslshift.training, sslshift.study; print(jax.config.jax_compilation_cache_dir)"
    variables = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert Clock().timing().compiled == 0
