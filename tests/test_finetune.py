import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import AxisType
from sklearn.linear_model import LogisticRegression

from sslshift.data.decode import BrokenImageError, Canvas
from sslshift.data.sources import ArraySource
from sslshift.data.views import normalise
from sslshift.models import PatchMLP, PretrainedEncoder, ResNet, ViT
from sslshift.training.guards import NonFiniteError
from sslshift.training.optimiser import Optimiser
from sslshift.transfer import finetune
from sslshift.transfer.finetune import FineTune
from sslshift.transfer.finetune_step import LabelledBatch, Network, finetune_step
from sslshift.transfer.metrics import METRICS

CANVAS = Canvas(8, 8, 1)
MODULES = {
    "patch_mlp": PatchMLP(width=8, features=16),
    "vit": ViT(16, 2, 2, 4),
    "resnet": ResNet((1, 1), width=4, small_images=True),
}
# For a hundred images: small batches, a high rate, little augmentation.
SMALL = FineTune((0.1,), epochs=6, batch_size=16, layer_decay=1.0, mixup=0, cutmix=0, min_crop_scale=0.8, flip_probability=0)


def encoder_for(name, mean=0.5, std=0.25):
    module = MODULES[name]
    variables = jax.jit(functools.partial(module.init, train=False))(jax.random.key(0), jnp.zeros((2, *CANVAS)))
    return PretrainedEncoder(module, {"batch_stats": {}} | variables, tuple(CANVAS), mean, std)


def stripes(count, seed):
    """Noisy stripes of random phase, upright or lying: a single pixel does not show which, only its neighbours do."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = 60 * np.sign(np.sin(np.pi * (np.arange(8) / 2 + random.integers(0, 4, (count, 1)) / 2 + 0.25)))
    images = np.where(labels[:, None, None] == 1, wave[:, :, None], wave[:, None, :]) + random.normal(128, 20, (count, 8, 8))
    return images.clip(0, 255).astype(np.uint8)[..., None], labels


def part_of(source, indices, labels):
    return types.SimpleNamespace(source=source, indices=np.asarray(indices, np.int64), labels=labels)


def task_of(images, labels, train, validation, source=None):
    """A task of the first `train` images, the next `validation` ones, and the rest as its test split."""
    source = source or ArraySource("memory:task", images)
    cuts = np.split(np.arange(len(images)), [train, train + validation])
    parts = (part_of(source, cut, labels[cut]) for cut in cuts)
    classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return types.SimpleNamespace(
        **dict(zip(("train", "validation", "test"), parts, strict=True)), classes=classes, canvas=CANVAS
    )


def with_labels(task, split, labels):
    changed = vars(getattr(task, split)) | {"labels": labels}
    return types.SimpleNamespace(**vars(task) | {split: types.SimpleNamespace(**changed)})


@pytest.fixture(scope="module")
def striped():
    return task_of(*stripes(240, 0), 96, 48)


def accuracy(outcome, task):
    return float(np.mean(outcome.predictions == task.test.labels))


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", MODULES)
def test_it_learns_what_the_encoder_did_not_know_and_leaves_the_encoder_alone(name, striped):
    encoder = encoder_for(name)
    steps = []
    before = jax.tree.map(np.array, encoder.variables)
    settings = dataclasses.replace(SMALL, epochs=10 if name == "vit" else 6)
    found = settings(encoder, striped, METRICS["accuracy"], on_step=lambda *step: steps.append(step))
    assert list(found) == ["finetune"]
    assert found["finetune"].chosen == {"learning_rate": 0.1}
    assert accuracy(found["finetune"], striped) > 0.9
    assert found["finetune"].validation > 0.9
    assert found["finetune"].notes == ()
    assert steps == [(step + 1, settings.epochs * 6) for step in range(settings.epochs * 6)]
    assert_equal(before, jax.tree.map(np.array, encoder.variables))

    def features(part):
        return encoder.apply(part.source.read(part.indices, CANVAS))

    # What convolutions and patches of a random encoder show already is no feat; that of the third shows little.
    if name == "patch_mlp":
        probe = LogisticRegression(max_iter=1000).fit(features(striped.train), striped.train.labels)
        assert accuracy(found["finetune"], striped) > probe.score(features(striped.test), striped.test.labels) + 0.2


def test_same_seed_same_numbers_on_any_number_of_devices(striped, monkeypatch):
    """All that is random is there: augmentation, mixing, drop path.

    With SGD: AdamW turns the rounding error of a gradient that should be 0 into a whole step.
    """
    settings = dataclasses.replace(
        SMALL, optimiser="sgd", learning_rates=(1.0,), epochs=2, mixup=0.8, cutmix=1.0, drop_path=0.3, flip_probability=0.5
    )
    encoder = encoder_for("vit")
    raw = types.SimpleNamespace(decide=lambda scores: scores, value=lambda scores, labels: 0.5)

    def run(settings):
        return settings(encoder, striped, raw)["finetune"].predictions

    eight = run(settings)
    np.testing.assert_array_equal(run(settings), eight)
    assert np.abs(run(dataclasses.replace(settings, seed=1)) - eight).max() > 1e-3
    one = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], axis_types=(AxisType.Auto,))
    monkeypatch.setattr(finetune, "make_mesh", lambda: one)
    np.testing.assert_allclose(run(settings), eight, atol=1e-5)


def test_the_learning_rate_is_chosen_on_the_validation_split(striped):
    encoder = encoder_for("patch_mlp")
    accuracy_metric = METRICS["accuracy"]
    settings = dataclasses.replace(SMALL, learning_rates=(1e-9, 0.1))
    found = settings(encoder, striped, accuracy_metric)["finetune"]
    assert found.chosen == {"learning_rate": 0.1}
    turned = settings(encoder, with_labels(striped, "test", 1 - striped.test.labels), accuracy_metric)["finetune"]
    assert turned.chosen == found.chosen
    np.testing.assert_array_equal(turned.predictions, found.predictions)
    # What is right about the training images is wrong about these.
    turned = settings(encoder, with_labels(striped, "validation", 1 - striped.validation.labels), accuracy_metric)["finetune"]
    assert turned.chosen == {"learning_rate": 1e-9}
    # Of equally good ones the first.
    same = dataclasses.replace(SMALL, learning_rates=(2e-9, 1e-9))(encoder, striped, accuracy_metric)["finetune"]
    assert same.chosen == {"learning_rate": 2e-9}


def test_a_learning_rate_that_diverges_loses(striped):
    encoder = encoder_for("patch_mlp")
    steps = []
    settings = dataclasses.replace(SMALL, learning_rates=(1e38, 0.1))
    found = settings(encoder, striped, METRICS["accuracy"], on_step=lambda *step: steps.append(step))["finetune"]
    assert found.chosen == {"learning_rate": 0.1}
    assert found.notes == ("the loss became non-finite with learning rate 1e+38, which was excluded from the choice",)
    # It was given up after an epoch.
    assert steps[5:8] == [(6, 72), (36, 72), (37, 72)]
    with pytest.raises(NonFiniteError, match=r"with every learning rate \(1e\+38, 2e\+38\); try lower ones"):
        dataclasses.replace(SMALL, learning_rates=(1e38, 2e38))(encoder, striped, METRICS["accuracy"])


class Holes(ArraySource):
    """A source of which some images cannot be read."""

    broken = (3, 17, 40)

    def read(self, indices, canvas):
        for index in np.intersect1d(indices, self.broken):
            raise BrokenImageError(f"image {index} is torn")
        return super().read(indices, canvas)


def test_broken_images_teach_nothing_and_labels_follow_the_others(random):
    images = np.zeros((50, *CANVAS), np.uint8) + np.arange(50, dtype=np.uint8)[:, None, None, None]
    labels = random.integers(0, 1000, 50)
    train = part_of(Holes("memory:holes", images), np.arange(49, 1, -1), labels[49:1:-1])
    task = types.SimpleNamespace(train=train, canvas=CANVAS)
    training = finetune._Training.of(task, dataclasses.replace(SMALL, epochs=5))
    shown = [batch for _ in range(2) for batch in training.batches()]
    assert len(shown) == 2 * 15
    index = np.concatenate([batch.images[:, 0, 0, 0] for batch in shown])
    given, weights = (np.concatenate([getattr(batch, name) for batch in shown]) for name in ("labels", "weights"))
    assert not np.isin(index, Holes.broken).any()
    # Another image replaces a broken one and has no weight; all others count, with their own labels.
    np.testing.assert_array_equal(labels[index[weights == 1]], given[weights == 1])
    assert (
        np.bincount(index[weights == 1], minlength=50)[2:] == np.where(np.isin(np.arange(2, 50), Holes.broken), 0, 10)
    ).all()
    assert (weights == 0).sum() == 3 * 10
    assert sorted(training.broken.values()) == [f"image {number} is torn" for number in (17, 3, 40)]


def test_labels_of_broken_images_do_not_matter(striped):
    images, labels = stripes(240, 0)
    settings = dataclasses.replace(SMALL, epochs=2, mixup=0.8)
    outcomes = []
    for wrong in (0, 1):
        given = np.where(np.isin(np.arange(240), Holes.broken), wrong, labels)
        task = task_of(images, given, 96, 48, Holes("memory:holes", images))
        outcomes.append(settings(encoder_for("patch_mlp"), task, METRICS["accuracy"])["finetune"])
    np.testing.assert_array_equal(outcomes[0].predictions, outcomes[1].predictions)
    assert outcomes[0].notes == ("3 of 96 training images cannot be read and had no weight in the loss, e.g. image 3 is torn",)


def test_fewer_images_than_a_batch_or_than_devices(striped):
    images, labels = stripes(40, 0)
    for count, batch in ((20, 16), (5, 8)):
        task = task_of(images, labels, count, 10)
        found = dataclasses.replace(SMALL, epochs=1, batch_size=64)(encoder_for("patch_mlp"), task, METRICS["accuracy"])
        (note,) = found["finetune"].notes
        assert note.startswith(f"batches held {batch} images, not 64: there are {count} training images, and 8 devices share")
        assert len(found["finetune"].predictions) == 30 - count


def test_several_labels_an_image(random):
    labels = random.integers(0, 2, (240, 3)).astype(np.uint8)
    images = random.integers(0, 120, (240, *CANVAS)).astype(np.uint8)
    # Two classes show, the third does not.
    images[:, :, :3] += (labels[:, 0] * 100).astype(np.uint8)[:, None, None, None]
    images[:, :, 5:] += (labels[:, 1] * 100).astype(np.uint8)[:, None, None, None]
    task = task_of(images, labels, 96, 48)
    precision = METRICS["average_precision"]
    found = dataclasses.replace(SMALL, mixup=0.8, cutmix=1.0)(encoder_for("patch_mlp"), task, precision)["finetune"]
    assert found.predictions.shape == (96, 3)
    by_class = [precision.value(found.predictions[:, [i]], task.test.labels[:, [i]]) for i in range(3)]
    assert min(by_class[:2]) > 0.95
    assert by_class[2] < 0.75


def test_frozen_batch_norm_where_there_is_none(striped):
    settings = dataclasses.replace(SMALL, epochs=1, batch_norm="frozen", drop_path=0.5)
    found, trained = (
        each(encoder_for("vit"), striped, METRICS["accuracy"])
        for each in (settings, dataclasses.replace(settings, batch_norm="train"))
    )
    assert list(found) == ["finetune_frozen_bn"]
    note = "this encoder has no batch norm to freeze, so all its parameters were trained"
    assert found["finetune_frozen_bn"].notes == (note,)
    np.testing.assert_array_equal(found["finetune_frozen_bn"].predictions, trained["finetune"].predictions)


def network_for(name, **changes):
    module = MODULES[name]
    settings = {
        "label_smoothing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "frozen_norm": False,
        "optimiser": Optimiser(weight_decay=0.0),
    }
    return Network(module, 0.5, 0.25, 2, SMALL._view, steps=4, batch_size=16, **settings | changes)


def stepped(network, name, rate=0.1, steps=1):
    """The states before and after steps with a head that already says something."""
    shape = jax.ShapeDtypeStruct((16, *CANVAS), jnp.float32)
    state = network.init(encoder_for(name).variables, shape)
    head = {"kernel": jax.random.normal(jax.random.key(1), state.params["head"]["kernel"].shape), "bias": jnp.zeros(2)}
    state = first = state.replace(params=state.params | {"head": head})
    images, labels = stripes(16, 1)
    step = jax.jit(functools.partial(finetune_step, network=network))
    for _ in range(steps):
        state, loss = step(state, LabelledBatch(images, labels, np.ones(16, np.float32)), jnp.float32(rate), jax.random.key(2))
        assert np.isfinite(loss)
    return first, state


def test_layer_decay_scales_the_update_of_every_layer():
    changes = []
    for decay in (1.0, 0.1):
        before, after = stepped(network_for("resnet", optimiser=Optimiser(weight_decay=0.0, layer_decay=decay)), "resnet")
        changes.append(jax.tree.map(lambda a, b: np.asarray(b - a), before.params, after.params))
    whole, decayed = changes
    # Two blocks above the stem, and the head, which has the full rate.
    layers = {"stem": 3, "stem_norm": 3, "block0": 2, "block1": 1}
    for name, below in layers.items():
        expected = jax.tree.map(lambda change, below=below: change * 0.1**below, whole["encoder"][name])
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected)) > 1e-6
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0.02, atol=3e-8), decayed["encoder"][name], expected)
    assert_equal(decayed["head"], whole["head"])


def test_one_program_serves_every_learning_rate():
    for name in ("adamw", "lars", "sgd"):
        params = {"w": jnp.arange(6.0).reshape(2, 3)}
        ours = Optimiser(name, 1e-3)
        theirs = Optimiser(name, 0.7)

        @jax.jit
        def update(rate, state, ours=ours, params=params):
            return ours.build(10, 64, rate=rate).update(jax.tree.map(jnp.sin, params), state, params)

        expected = theirs.build(10, 64)
        state = ours.build(10, 64).init(params)
        other = expected.init(params)
        for _ in range(3):
            got, state = update(jnp.float32(0.7), state)
            wanted, other = expected.update(jax.tree.map(jnp.sin, params), other, params)
            np.testing.assert_allclose(got["w"], wanted["w"], rtol=1e-5)


def test_frozen_batch_norm_keeps_statistics_scale_and_offset():
    def of_norms(tree, batch_stats):
        flat = traverse_util.flatten_dict(tree)
        norms = {path[:-1] for path in traverse_util.flatten_dict(batch_stats)}
        return {path: leaf for path, leaf in flat.items() if path[:-1] in norms}

    decay = Optimiser(weight_decay=0.1)
    for frozen in (True, False):
        before, after = stepped(network_for("resnet", frozen_norm=frozen, optimiser=decay), "resnet", steps=2)
        norms = of_norms(before.params["encoder"], before.batch_stats)
        assert len(norms) >= 4
        pairs = [(leaf, of_norms(after.params["encoder"], before.batch_stats)[path]) for path, leaf in norms.items()]
        pairs += zip(jax.tree.leaves(before.batch_stats), jax.tree.leaves(after.batch_stats), strict=True)
        assert all(np.array_equal(a, b) == frozen for a, b in pairs)
        others = set(traverse_util.flatten_dict(before.params)) - {("encoder", *path) for path in norms}
        old, new = (traverse_util.flatten_dict(state.params) for state in (before, after))
        assert all(not np.array_equal(old[path], new[path]) for path in others)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), (0.1, 0.4), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_images_are_normalised_as_the_encoder_expects(mean, std, random):
    network = dataclasses.replace(network_for("vit"), mean=mean, std=std)
    images = random.integers(0, 256, (4, 8, 8, 3), np.uint8)
    expected = (images / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(network.normalised(normalise(images)), expected, atol=1e-5)
    if mean == 0.5:
        np.testing.assert_array_equal(network.normalised(normalise(images)), normalise(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": ()}, "Expected a learning rate, and at least 1 for epochs and batch_size"),
        ({"learning_rates": (1e-3, -1.0)}, "Expected a learning rate above 0"),
        ({"epochs": 0}, "Expected a learning rate, and at least 1 for epochs"),
        ({"batch_norm": "off"}, "one of train, frozen for batch_norm of fine-tuning, got 'off'"),
        ({"label_smoothing": 1.0}, r"label_smoothing and drop_path in \[0, 1\)"),
        ({"cutmix": -1.0}, "mixup and cutmix of at least 0, got"),
        ({"min_crop_scale": 0.0}, "crop scales above 0"),
        ({"layer_decay": 0.0}, r"layer decay in \(0, 1\]"),
        ({"optimiser": "adam"}, "Expected one of adamw, lars, sgd for the optimiser, got 'adam'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FineTune(**changes)


def test_images_that_the_encoder_does_not_take_are_refused(striped):
    wide = types.SimpleNamespace(**vars(striped) | {"canvas": Canvas(12, 12, 1)})
    with pytest.raises(ValueError, match=r"PatchMLP takes images of another shape than \(12, 12, 1\)"):
        SMALL(encoder_for("patch_mlp"), wide, METRICS["accuracy"])
