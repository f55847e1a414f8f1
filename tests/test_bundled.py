"""The encoder that ships with the package: its digest, its card, and the names under which commands and functions open it."""

import json
import shutil

import jax
import numpy as np
import pytest

from sslshift.data import open_source
from sslshift.data.decode import Canvas
from sslshift.models import PatchMLP, PretrainedEncoder, load_encoder, open_encoder
from sslshift.models.bundled import FOLDER, LARGEST_FILE, load_bundled, write_bundled
from sslshift.transfer.encoders import encoder_named


def test_every_way_of_opening_gives_the_same_encoder_in_float32():
    encoder = open_encoder("bundled")
    assert encoder.fingerprint == load_encoder("bundled").fingerprint == load_bundled().fingerprint
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(encoder.variables)} == {"float32"}
    images = open_source("synthetic:objects?size=4").read(np.arange(4), Canvas(*encoder.shape))
    features = encoder.apply(images)
    assert features.shape[0] == 4
    assert np.isfinite(features).all()
    # Different pictures have different features.
    assert np.corrcoef(features)[0, 1] < 0.999


def test_the_card_says_how_it_was_trained_and_that_its_images_are_free():
    card = open_encoder("bundled").card
    assert (card["name"], card["method"]["name"], card["licence"]) == ("bundled", "simclr", "CC0-1.0 (generated)")
    assert "generated" in card["trained_on"]
    assert card["trained"]
    assert (FOLDER / "encoder.safetensors").stat().st_size < LARGEST_FILE


def test_grey_and_colour_images_can_be_encoded():
    named = encoder_named("bundled")
    # No sentence may claim that it responds to more than colour and texture.
    assert (named.trained, named.canvas.channels) == (False, 3)
    assert named.title == "the bundled encoder (simclr on generated images)"
    assert "by colour and texture, not by what the pictures show" in named.remark
    # Sources bring grey images to the canvas of the encoder.
    digits = open_source("bundled:mnist").read(np.arange(3), named.canvas)
    assert np.isfinite(named.build(named.canvas)(digits)).all()


def test_a_file_with_other_content_is_refused(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "copy")
    file = folder / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"encoder\.safetensors does not have the content .* reinstall the package"):
        load_bundled(folder)
    file.unlink()
    with pytest.raises(ValueError, match=r"The bundled encoder cannot be read .* reinstall the package"):
        load_bundled(folder)


@pytest.fixture
def small(random):
    module = PatchMLP(width=4, features=8)
    variables = module.init(jax.random.key(0), np.zeros((2, 8, 8, 3)), train=False)
    return PretrainedEncoder(module, variables, (8, 8, 3), card={"mixture": "generated = ...", "method": {"name": "simclr"}})


def test_weights_are_rounded_to_half_precision_and_read_back(small, tmp_path, random):
    file = write_bundled(small, {"trained": "in a test"}, tmp_path)
    found = load_bundled(tmp_path)
    images = random.integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(found.apply(images), small.apply(images), rtol=0.01, atol=0.01)
    assert found.card == {
        "name": "bundled",
        "trained_on": "generated = ...",
        "method": {"name": "simclr"},
        "trained": "in a test",
    }
    assert json.loads((tmp_path / "manifest.json").read_text())["file"] == file.name


def test_weights_beyond_half_precision_and_large_files_are_refused(small, tmp_path, monkeypatch):
    large = jax.tree.map(lambda leaf: leaf * 0 + 1e6, small.variables)
    with pytest.raises(ValueError, match="finite in float16"), np.errstate(over="ignore"):
        write_bundled(PretrainedEncoder(small.module, large, small.shape), {}, tmp_path)
    monkeypatch.setattr("sslshift.models.bundled.LARGEST_FILE", 100)
    with pytest.raises(ValueError, match="Expected at most 100 bytes of weights in float16"):
        write_bundled(small, {}, tmp_path)
    assert not list(tmp_path.iterdir())
