"""Eight virtual devices for every test, compiled code kept between tests, and absl flags marked as read (grain needs it)."""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Two test processes on two cores: threads of each for one product would wait for those of the other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Shapes are small: compiling takes longer than running, and two fifths less without the costlier passes.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "sslshift-test-cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# No test reads or writes the cache of the user who runs it.
os.environ["SSLSHIFT_IDENTITIES"] = ""

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from published import DINOV2, RESNET, VIT
from reference_originals import PAIRS, random_tensors
from safetensors.numpy import save_file
from source_builders import picture

from sslshift import Budget
from sslshift.data import SamplePlan
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader
from sslshift.data.sources import ArraySource
from sslshift.methods import METHODS, Method
from sslshift.models import PatchMLP, ViT
from sslshift.training.online import Labelled, Online
from sslshift.training.programs import bound_programs

flags.FLAGS([sys.argv[0]])


@pytest.fixture(autouse=True, scope="module")
def _bounded_programs():
    """A process of the whole suite compiles more than it may hold; one file may add as many again as are left here."""
    yield
    bound_programs(15_000)


@pytest.fixture(params=["lenient", "strict"])
def jax_promotion(request):
    """JAX as it starts, and as it refuses every implicit promotion of ranks and dtypes."""
    if request.param == "lenient":
        yield
    else:
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            yield


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def gray_source(random):
    """200 labelled gray images of 12 pixels in two classes that differ in brightness."""
    labels = np.arange(200) % 2
    images = random.integers(0, 120, (200, 12, 12, 1), np.uint8) + (labels * 100).astype(np.uint8)[:, None, None, None]
    return ArraySource("memory:gray", images, labels)


@pytest.fixture
def canvas():
    return Canvas(12, 12, 1)


@pytest.fixture
def reader(gray_source, canvas):
    """Ten batches of 32 from 90 of the gray images."""
    plan = SamplePlan(single(gray_source.name, 200, 90), Budget(320), 32, seed=1, subset_seed=2)
    return BatchReader(plan, {gray_source.name: gray_source}, canvas)


SMALL = {
    "projector": (32, 16),
    "predictor": (24,),
    "prototypes": 32,
    "queue": 64,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
}


@pytest.fixture
def small_method():
    """Builds a method for images of 12 x 12 that compiles in seconds; its hyperparameters are the recipe's, its widths not."""

    def build(name: str, encoder=None, **changes) -> Method:
        recipe = METHODS[name]
        encoder = encoder or (ViT(16, 2, 2, 4) if name == "mae" else PatchMLP(width=8, features=16))
        return recipe.build(encoder, **{key: value for key, value in SMALL.items() if key in recipe.options} | changes)

    return build


@pytest.fixture
def photos(tmp_path):
    """Five pictures in two folders."""
    folder = tmp_path / "photos"
    for i, name in enumerate(("cats/a.png", "cats/b.jpg", "dogs/c.png", "dogs/d.webp", "dogs/more/e.bmp")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i, form={"jpg": "JPEG"}.get(name[-3:], name.rpartition(".")[2].upper())))
    return folder


@pytest.fixture(scope="session")
def photographs():
    """40 pieces of two photographs that overlap little, 256 x 256 in colour, all with some contrast."""
    # Imported here, since it takes a second that most test files need not spend.
    from sklearn.datasets import load_sample_images

    tiles = [
        photo[y : y + 90, x : x + 90]
        for photo in load_sample_images().images
        for y in (130, 230, 330)
        for x in range(0, 550, 78)
    ]
    tiles = [tile for tile in tiles if tile.std() > 25][:40]
    return np.stack([np.asarray(Image.fromarray(tile).resize((256, 256))) for tile in tiles])


@pytest.fixture
def images(random):
    """A batch for a training step."""
    return random.integers(0, 256, (16, 12, 12, 1), np.uint8)


@pytest.fixture
def online(gray_source):
    """Reports of an encoder during training; no number of images is a multiple of the 8 devices."""
    images = np.stack([each["image"] for each in gray_source])
    labels = gray_source.labels
    train_part = Labelled(images[:90], labels[:90])
    validation = Labelled(images[90:127], labels[90:127])
    return Online(3, images[150:], train_part, validation, classes=2, learning_rate=0.03, batch_size=20, seed=5)


@pytest.fixture(scope="module")
def pairs():
    """Outputs of the original code of published encoders, and their names and shapes."""
    with np.load(PAIRS, allow_pickle=False) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def tensors(pairs):
    """The random weights of an original by its name, and its heads."""

    def build(name):
        about = json.loads(str(pairs[f"{name}/about"]))
        return random_tensors(about["shapes"]), about["heads"]

    return build


@pytest.fixture(scope="module")
def originals():
    """Random weights under the original architectures' names, without their heads."""
    with np.load(PAIRS, allow_pickle=False) as pairs:
        shapes = {name: json.loads(str(pairs[f"{name}/about"]))["shapes"] for name in (RESNET, VIT, DINOV2, "transformers/vit")}
    # ResNets of a stem of 8 features: what counts here are names.
    shapes[RESNET] = {name: [side // 8 if side > 7 else side for side in shape] for name, shape in shapes[RESNET].items()}
    return {
        name: random_tensors({k: v for k, v in each.items() if not k.startswith(("head", "fc"))})
        for name, each in shapes.items()
    }


@pytest.fixture
def write(tmp_path):
    """Writes tensors to a file, and text about them into its header."""

    def to_file(tensors, name="checkpoint.safetensors", **metadata):
        if name.endswith(".npz"):
            np.savez(tmp_path / name, **tensors)
        else:
            save_file({k: np.asarray(v, order="C") for k, v in tensors.items()}, tmp_path / name, metadata or None)
        return tmp_path / name

    return to_file
