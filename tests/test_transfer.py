"""Features, the protocol, and predictions that are kept."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sslshift.data import ArraySource, open_source
from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.models import PatchMLP, PretrainedEncoder
from sslshift.storage import Store
from sslshift.transfer.extraction import extract
from sslshift.transfer.features import NetworkEncoder, pixel_encoder
from sslshift.transfer.predictions import load_predictions, on_common_images, save_predictions
from sslshift.transfer.protocol import SharedFeatures, evaluate, parse_evaluations
from sslshift.transfer.scores import evaluate_stored
from sslshift.transfer.tasks import make_task


class Hurt(ArraySource):
    """Images of which some cannot be read."""

    hurt = frozenset()

    def read(self, indices, canvas):
        if set(np.asarray(indices).tolist()) & self.hurt:
            raise BrokenImageError(f"image {min(set(np.asarray(indices).tolist()) & self.hurt)} is cut short")
        return super().read(indices, canvas)


def network(seed=0, shape=(12, 12, 1)):
    module = PatchMLP(width=8, features=16)
    variables = jax.jit(lambda key: module.init(key, jnp.zeros((2, *shape)), train=False))(jax.random.key(seed))
    return PretrainedEncoder(module, variables, shape)


def scores_of(encode, task, **options):
    return evaluate(encode, task, **options).scores()


def test_splits_share_no_image_and_ignore_seeds(gray_source, canvas):
    task = make_task(gray_source, None, canvas, labelled=100)
    splits = [set(part.indices.tolist()) for part in task.splits.values()]
    assert [len(split) for split in splits] == [80, 20, 40]
    assert len(set.union(*splits)) == 140
    again = make_task(gray_source, None, canvas, labelled=100)
    assert (again.train.indices == task.train.indices).all()


def test_evaluate_learns_what_can_be_learned(gray_source, canvas):
    scores = scores_of(pixel_encoder, make_task(gray_source, None, canvas, labelled=0))
    assert scores["linear"] > 0.95
    assert scores["linear_low"] <= scores["linear"] <= scores["linear_high"]
    assert scores["chosen"]["linear"] == {"strength": scores["linear_strength"]}
    shuffled = ArraySource("memory:shuffled", gray_source._images, np.random.default_rng(0).permutation(gray_source.labels))
    scores = scores_of(pixel_encoder, make_task(shuffled, None, canvas, labelled=0))
    assert scores["linear"] < 0.75
    assert scores["knn"] < 0.75


def test_hyperparameters_are_not_chosen_on_the_test_split(gray_source, canvas):
    """The choice does not change when the test labels are inverted, and accuracy becomes its complement."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (50, 12, 12, 1), np.uint8)
    labels = random.integers(0, 2, 50)
    test = ArraySource("memory:test", images, labels)
    turned = ArraySource("memory:turned", images, 1 - labels)
    a, b = (scores_of(pixel_encoder, make_task(gray_source, each, canvas, labelled=0)) for each in (test, turned))
    assert a["chosen"] == b["chosen"]
    assert a["linear"] == pytest.approx(1 - b["linear"])
    assert a["linear_validation"] == b["linear_validation"]


def test_features_that_are_not_finite_are_refused(gray_source, canvas):
    def broken(images):
        features = pixel_encoder(images).copy()
        features[3, 0] = np.nan
        return features

    with pytest.raises(ValueError, match="memory:gray: image 13 has features that are not finite"):
        extract(broken, gray_source, np.arange(10, 20), canvas)


def test_features_are_those_of_every_image_in_its_place(gray_source, canvas, monkeypatch):
    """Blocks, chunks and batches that do not divide the images change nothing."""
    monkeypatch.setattr("sslshift.transfer.extraction._BLOCK_BYTES", 1)
    monkeypatch.setattr("sslshift.transfer.extraction.BATCH", 70)
    encoder = network()
    seen = []
    indices = np.random.default_rng(0).permutation(200)[:150]
    found = extract(NetworkEncoder(encoder, 40), gray_source, indices, canvas, on_images=lambda *done: seen.append(done))
    expected = jax.jit(encoder.apply)(gray_source.read(indices, canvas))
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert found.kept.all()
    assert seen == [(70, 150), (140, 150), (150, 150)]
    assert len({digest.tobytes() for digest in found.digests}) == 150


@pytest.mark.parametrize(("block", "hurt"), [(1 << 26, []), (1, []), (1 << 26, [3, 40]), (1, [0, 69, 70, 139])])
def test_features_that_do_not_fit_stay_on_the_host_and_are_the_same(gray_source, canvas, monkeypatch, block, hurt):
    """As one block of images and as three, with images that cannot be read and without."""
    monkeypatch.setattr("sslshift.transfer.extraction._BLOCK_BYTES", block)
    monkeypatch.setattr("sslshift.transfer.extraction.BATCH", 70)
    monkeypatch.setattr("sslshift.transfer.extraction._CHUNK", 70)
    source = Hurt("memory:hurt", gray_source._images, gray_source.labels)
    source.hurt = frozenset(hurt)
    encode = NetworkEncoder(network(), 40)
    on_device = extract(encode, source, np.arange(150), canvas)
    assert isinstance(on_device.features, jax.Array)
    assert len(on_device.features.devices()) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert isinstance(extract(encode, source, np.arange(150), canvas).features, jax.Array)
    monkeypatch.setattr("sslshift.transfer.extraction.memory_for_images", lambda share: int(share * 1000))
    message = r"memory:hurt: features of 150 images need 8\.94e-06 GiB, and the device has 2\.33e-07 GiB for them \(0\.25 of"
    with pytest.warns(UserWarning, match=message) as warned:
        on_host = extract(encode, source, np.arange(150), canvas)
    assert len(warned) == 1
    assert isinstance(on_host.features, np.ndarray)
    np.testing.assert_array_equal(on_host.features, on_device.features)
    np.testing.assert_array_equal(on_host.kept, ~np.isin(np.arange(150), hurt))
    expected = jax.jit(network().apply)(source._images[on_host.kept.nonzero()[0]])
    np.testing.assert_allclose(on_host.features, expected, atol=1e-5)


def test_features_on_the_device_that_are_not_finite_are_refused(gray_source, canvas):
    encoder = network()
    broken = dataclasses.replace(encoder, variables=jax.tree.map(lambda leaf: leaf * jnp.nan, encoder.variables))
    with pytest.raises(ValueError, match="memory:gray: image 10 has features that are not finite"):
        extract(NetworkEncoder(broken), gray_source, np.arange(10, 20), canvas)


def test_features_are_the_same_on_one_device_and_on_eight(gray_source, canvas, tmp_path):
    code = (
        "import sys, numpy as np\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_transfer import network, NetworkEncoder\n"
        "images = np.load(sys.argv[1])\n"
        "np.save(sys.argv[2], NetworkEncoder(network(), 64)(images))\n"
    )
    images = gray_source.read(np.arange(100), canvas)
    np.save(tmp_path / "images.npy", images)
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    arguments = [str(tmp_path / "images.npy"), str(tmp_path / "features.npy")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment)
    assert jax.device_count() == 8
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), NetworkEncoder(network(), 64)(images), atol=1e-6)


def test_images_that_cannot_be_read_are_listed_and_counted(gray_source, canvas):
    source = Hurt("memory:hurt", gray_source._images, gray_source.labels)
    task = make_task(source, None, canvas, labelled=0)
    whole = scores_of(pixel_encoder, task)
    source.hurt = frozenset([*task.test.indices[:3].tolist(), int(task.train.indices[5])])
    found = evaluate(pixel_encoder, task)
    scores = found.scores()
    assert scores["test_images"] == len(task.test.indices) - 3
    assert found.indices.tolist() == task.test.indices[3:].tolist()
    assert {(name, index) for name, index, _ in found.broken} == {("memory:hurt", index) for index in source.hurt}
    assert any("3 of 40 images of the test split cannot be read and are excluded" in note for note in scores["notes"])
    assert not whole["unreadable"]
    source.hurt = frozenset(task.test.indices.tolist())
    with pytest.raises(ValueError, match="memory:hurt: none of 40 images can be read, the first because image"):
        evaluate(pixel_encoder, task)


def test_images_in_two_splits_are_excluded_from_training_and_noted(gray_source, canvas):
    images = gray_source._images.copy()
    fresh = np.random.default_rng(5).integers(0, 256, (40, 12, 12, 1), np.uint8)
    # Ten of the test images are also among those to learn from; one of these twice.
    fresh[:10] = images[:10]
    # Of one of them the two splits say different things.
    labels = gray_source.labels[:40].copy()
    labels[3] = (labels[3] + 1) % (gray_source.labels.max() + 1)
    test = ArraySource("memory:fresh", fresh, labels)
    own = np.append(gray_source.labels, gray_source.labels[0])
    train = ArraySource("memory:more", np.concatenate([images, images[:1]]), own)
    found = evaluate(pixel_encoder, make_task(train, test, canvas, labelled=0))
    told = [note for note in found.notes if "pixel for pixel" in note]
    assert sum(int(note.split()[0]) for note in told) == 11
    assert [note.rpartition("; ")[2] for note in told if "; " in note] == ["1 of them have another label there"]
    assert found.scores()["test_images"] == 40
    # As if they had not been there: what is left is what is learnt from.
    with pytest.raises(ValueError, match="of 30 test images of memory:same are also train images of memory:more"):
        evaluate(
            pixel_encoder, make_task(train, ArraySource("memory:same", images[:30], train.labels[:30]), canvas, labelled=0)
        )


def test_the_cache_keeps_features_of_this_encoder_and_these_images(gray_source, canvas, tmp_path):
    calls = []

    class Counting(NetworkEncoder):
        def __call__(self, images):
            calls.append(len(images))
            return super().__call__(images)

    def features(encoder=network(), indices=np.arange(30)):  # noqa: B008
        return extract(Counting(encoder), gray_source, indices, canvas, cache=tmp_path).features

    first = features()
    assert calls == [30]
    np.testing.assert_array_equal(features(network()), first)
    assert calls == [30]
    features(network(seed=1))
    features(indices=np.arange(1, 31))
    features(network().with_features("map"))
    assert calls == [30] * 4
    for file in tmp_path.glob("*/features.npy"):
        file.write_bytes(file.read_bytes()[:200])
    np.testing.assert_array_equal(features(), first)
    assert len(calls) == 5


def test_tasks_on_the_same_images_share_their_features(gray_source, canvas, tmp_path):
    """Two tasks on all images, with other labels, and one on fewer: what the first two share is computed once."""
    read = []

    class Counting(NetworkEncoder):
        def __call__(self, images):
            read.append(len(images))
            return super().__call__(images)

    mirrored = ArraySource("memory:mirrored", gray_source._images, gray_source.labels.max() - gray_source.labels)
    tasks = [
        dataclasses.replace(make_task(source, None, canvas, labelled=labelled), name=name)
        for name, source, labelled in (("a", gray_source, 0), ("b", mirrored, 0), ("c", gray_source, 80))
    ]
    whole, other, fewer = (task.splits for task in tasks)
    evaluations = parse_evaluations("knn", "knn.neighbours=3; knn.temperatures=0.1")
    found = evaluate_stored(Store(), lambda: Counting(network()), tasks, evaluations, "pooled", tmp_path)
    distinct = {each.indices.tobytes(): len(each.indices) for task in (whole, other, fewer) for each in task.values()}
    assert read == list(distinct.values())
    assert len(read) < 9
    shared = SharedFeatures(tasks)
    for task in tasks:
        alone = evaluate(NetworkEncoder(network()), task, evaluations)
        assert alone.scores()["knn"] == found.scores[task.name].evaluations["knn"].value
        evaluate(NetworkEncoder(network()), task, evaluations, shared=shared)
    assert not shared._kept


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "has no labels"), (np.zeros(50, int), "at least two"), (np.arange(50), "split holds no image")],
)
def test_tasks_that_are_none_are_refused(labels, message, random):
    source = ArraySource("memory:x", random.integers(0, 256, (50, 4, 4, 1), np.uint8), labels)
    with pytest.raises(ValueError, match=message):
        make_task(source, None, Canvas(4, 4, 1), labelled=0)


def test_classes_are_matched_by_name(tmp_path):
    """A test folder that lacks a class counts its labels otherwise; what is compared are the names."""
    for part, kinds in (("train", "abc"), ("test", "bc")):
        for number, kind in enumerate(kinds):
            for i in range(20):
                path = tmp_path / part / kind / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((8, 8), 60 * (ord(kind) - ord("a")) + number % 2, np.uint8)
                pixels.ravel()[i + (part == "test") * 30] += 20
                Image.fromarray(pixels).save(path)
    train, test = (open_source(f"folder:{tmp_path / part}?labels=folder") for part in ("train", "test"))
    task = make_task(train, test, Canvas(8, 8, 1), labelled=0)
    assert set(task.test.labels.tolist()) == {1, 2}
    assert scores_of(pixel_encoder, task)["linear"] > 0.9
    with pytest.raises(ValueError, match="has no class a"):
        make_task(test, train, Canvas(8, 8, 1), labelled=0)


def test_few_labelled_images_are_enough_to_run(gray_source, canvas):
    assert 0 <= scores_of(pixel_encoder, make_task(gray_source, None, canvas, labelled=8))["knn"] <= 1


def test_raw_pixels_of_large_images_are_few(random):
    assert pixel_encoder(random.integers(0, 256, (2, 200, 100, 3), np.uint8)).shape == (2, 32 * 32 * 3)
    images = random.integers(0, 256, (2, 28, 28, 1), np.uint8)
    np.testing.assert_allclose(pixel_encoder(images), images.reshape(2, -1) / np.float32(255), atol=1e-6)


def test_evaluations_are_chosen_by_name_and_changed_by_setting():
    chosen = parse_evaluations("linear, few_shot", "few_shot.shots=1,2; few_shot.draws=3; linear.strengths=0.1,1")
    assert list(chosen) == ["linear", "few_shot"]
    assert (chosen["few_shot"].shots, chosen["few_shot"].draws, chosen["linear"].strengths) == ((1, 2), 3, (0.1, 1.0))
    for names, options, message in (
        ("linaer", "", r"got 'linaer'\. Did you mean linear\?"),
        ("", "", "at least one evaluation"),
        ("knn,knn", "", "each only once"),
        (
            "knn",
            "linear.strengths=1",
            "--evaluation_options: expected one of knn.neighbours, knn.temperatures, got 'linear.strengths'",
        ),
        ("knn", "knn.neighbours", "Expected --evaluation_options as 'name=value; name=value', got 'knn.neighbours'"),
        ("knn", "knn.neighbours=few", "Expected whole numbers above 0 separated by ',' for knn.neighbours, got 'few'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_evaluations(names, options)


@pytest.mark.slow
def test_every_evaluation_on_one_task(gray_source, canvas):
    """All that there is, on an encoder and on pixels, which cannot be fine-tuned."""
    options = (
        "finetune.epochs=2; finetune.batch_size=16; finetune_frozen_bn.epochs=2; finetune_frozen_bn.batch_size=16; sgd.epochs=5"
    )
    evaluations = parse_evaluations("knn,linear,few_shot,sgd,finetune,finetune_frozen_bn", options)
    task = dataclasses.replace(make_task(gray_source, None, canvas, labelled=0), metric="macro_f1")
    scores = scores_of(NetworkEncoder(network()), task, evaluations=evaluations)
    names = ["knn", "linear", "few_shot_1", "few_shot_5", "few_shot_10", "few_shot_50", "sgd", "finetune", "finetune_frozen_bn"]
    assert list(scores["chosen"]) == names
    assert all(0.3 < scores[name] <= 1 for name in names)
    of_pixels = scores_of(pixel_encoder, task, evaluations=evaluations)
    assert list(of_pixels["chosen"]) == names[:-2]
    assert "finetune: needs an encoder with weights, which raw pixels do not have" in of_pixels["notes"]


def test_multi_label_tasks_are_evaluated_by_average_precision(random):
    labels = random.integers(0, 2, (300, 2)).astype(np.uint8)
    images = random.integers(0, 60, (300, 8, 8, 1), np.uint8)
    images[:, :, :4] += (labels[:, 0] * 100).astype(np.uint8)[:, None, None, None]
    source = ArraySource("memory:both", images, labels)
    found = evaluate(
        pixel_encoder, make_task(source, None, Canvas(8, 8, 1), labelled=0), parse_evaluations("knn,linear,few_shot")
    )
    scores = found.scores()
    # The first class shows, the second does not: its precision is that of guessing.
    assert 0.65 < scores["linear"] < 0.95
    assert 0.65 < scores["knn"] < 0.95
    assert any("few_shot" in note for note in scores["notes"])


def test_predictions_are_kept_and_compared_on_common_images(gray_source, canvas, tmp_path):
    source = Hurt("memory:hurt", gray_source._images, gray_source.labels)
    task = make_task(source, None, canvas, labelled=0)
    folders = []
    for number, hurt in enumerate(([], task.test.indices[:4].tolist())):
        source.hurt = frozenset(hurt)
        folders.append(tmp_path / str(number))
        save_predictions(evaluate(pixel_encoder, task), folders[-1])
    several = [load_predictions(folder) for folder in folders]
    assert [len(each.labels) for each in several] == [40, 36]
    whole, part = on_common_images(several)
    assert whole.indices.tolist() == part.indices.tolist() == task.test.indices[4:].tolist()
    np.testing.assert_array_equal(whole.predictions["linear"], several[0].predictions["linear"][4:])
    with pytest.raises(ValueError, match="Predictions for different tasks"):
        on_common_images([whole, part._replace(labels=1 - part.labels)])
    # Predictions of another number or order of images would be compared with other images' labels.
    with np.load(folders[0] / "predictions.npz") as kept:
        arrays = dict(kept)
    for change in (
        {"labels": arrays["labels"][:-1]},
        {"indices": arrays["indices"][::-1]},
        {"of_knn": arrays["of_knn"][..., 1:]},
    ):
        np.savez(folders[0] / "predictions.npz", **arrays | change)
        with pytest.raises(ValueError, match="its images, labels and predictions do not belong together"):
            load_predictions(folders[0])
    (folders[0] / "predictions.npz").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot be read"):
        load_predictions(folders[0])
