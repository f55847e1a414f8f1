"""The way from Python to a trained encoder: the example of the README, and encoders of other people's modules."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sslshift
from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.models import PretrainedEncoder
from sslshift.models.description import from_description
from sslshift.training import Training, train
from sslshift.transfer import encoder_of

README = Path(__file__).parent.parent / "README.md"


def example():
    """Returns the first block of Python below the README's heading "From Python"."""
    section = README.read_text().partition("\n## From Python\n")[2].partition("\n## ")[0]
    return re.search(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)[1]


def test_the_example_of_the_readme_trains_an_encoder_and_evaluates_it(tmp_path):
    assert len(example().strip().splitlines()) <= 12
    # As a reader runs it: on one device, compiled with all optimisations.
    plain = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    command = [sys.executable, "-c", example()]
    done = subprocess.run(command, cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Guessing one of ten classes is right for a tenth of the images.
    assert 0.5 < float(done.stdout.split()[-1]) < 1


MODULE = '''
import flax.linen as nn
import jax.numpy as jnp
from flax.core import FrozenDict


class Mixer(nn.Module):
    """Somebody else's encoder: it knows nothing of sslshift, and has fields of several kinds."""

    widths: tuple[int, ...]
    norm: type[nn.Module]
    head: nn.Module
    options: FrozenDict
    dtype: object = None
    activation: object = nn.gelu

    @nn.compact
    def __call__(self, x, *, train):
        x = x.reshape(len(x), -1).astype(self.dtype or x.dtype)
        for width in self.widths:
            x = self.activation(self.norm(use_running_average=not train)(nn.Dense(width, dtype=self.dtype)(x)))
        self.sow("intermediates", "map", x[:, None, None])
        return self.head(x) * self.options["scale"]


def mixer():
    return Mixer((24, 16), nn.BatchNorm, nn.Dense(8), FrozenDict(scale=2.0), jnp.bfloat16)
'''
LOAD = """
import sys
import flax.linen as nn, numpy as np
import sslshift
from mixer import Mixer

encoder = sslshift.load_encoder(sys.argv[1], modules=[Mixer, nn.BatchNorm, nn.Dense])
images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), np.uint8)
assert encoder.with_features("map").apply(images).shape == (5, 16)
np.save(sys.argv[2], encoder.apply(images))
"""


@pytest.fixture
def mixer(tmp_path, monkeypatch):
    (tmp_path / "mixer.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("mixer")
    del sys.modules["mixer"]


@pytest.fixture
def trained(mixer, gray_source, canvas, tmp_path):
    """An encoder of somebody else's class after a few steps of SimCLR."""
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(96), 32, seed=1, subset_seed=2)
    training = Training.from_recipe("simclr", mixer.mixer(), projector=(16, 8))
    state = train(training, BatchReader(plan, {gray_source.name: gray_source}, canvas), 0, tmp_path / "run")
    return encoder_of(training.method, state.variables, canvas)


def test_an_encoder_of_another_class_is_trained_saved_and_loaded_elsewhere(trained, mixer, tmp_path):
    file = sslshift.save_encoder(trained, tmp_path / "mixer.safetensors")
    images = np.random.default_rng(0).integers(0, 256, (5, 12, 12, 1), np.uint8)
    fresh = mixer.mixer().init(jax.random.key(0), jnp.zeros((2, 12, 12, 1)), train=False)
    assert not np.array_equal(dataclasses.replace(trained, variables=fresh).apply(images), trained.apply(images))
    command = [sys.executable, "-c", LOAD, str(file), str(tmp_path / "features.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), trained.apply(images))
    back = sslshift.load_encoder(file, modules=[mixer.Mixer, nn.BatchNorm, nn.Dense])
    assert back.module == trained.module
    assert back.fingerprint == trained.fingerprint


def test_a_class_that_was_not_passed_is_named_with_what_to_do(trained, mixer, tmp_path):
    file = sslshift.save_encoder(trained, tmp_path / "mixer.safetensors")
    with pytest.raises(ValueError, match=r"class Mixer, which is not one of sslshift's\. Import .*modules=\[Mixer\]\)"):
        sslshift.load_encoder(file)
    with pytest.raises(ValueError, match=r"class BatchNorm, .* nor one of those passed \(Mixer\)"):
        sslshift.load_encoder(file, modules=[mixer.Mixer])


def test_a_module_that_a_file_cannot_hold_is_refused(mixer, tmp_path):
    module = mixer.mixer().clone(activation=nn.silu)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((2, 12, 12, 1)), train=False))
    with pytest.raises(ValueError, match=r"Expected a number, .* as Mixer\.activation, got .*silu"):
        sslshift.save_encoder(PretrainedEncoder(module, variables, (12, 12, 1)), tmp_path / "mixer.safetensors")


@pytest.mark.parametrize(
    "value", [{"module": {"kind": "os"}}, {"class": "system"}, {"dict": [1]}, {"dtype": "no"}, {"what": 1}, {}, [{"class": 3}]]
)
def test_a_file_names_no_code(value):
    with pytest.raises(ValueError, match=r"class (os|system)|does not describe|not a possible value"):
        from_description({"kind": "Dense", "features": value}, [nn.Dense])
