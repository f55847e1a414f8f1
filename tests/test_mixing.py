"""Label smoothing, mixup, CutMix and drop path: the random parts of fine-tuning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslshift.models import ViT
from sslshift.models.vit import Block
from sslshift.transfer.mixing import label_vectors, mix_pairs, share_map


def test_label_vectors():
    single = label_vectors(jnp.array([1, 0]), 4, 0.2)
    np.testing.assert_allclose(single, [[0.05, 0.85, 0.05, 0.05], [0.85, 0.05, 0.05, 0.05]], rtol=1e-6)
    several = label_vectors(jnp.array([[1, 0, 1]], jnp.uint8), 3, 0.2)
    np.testing.assert_allclose(several, [[0.9, 0.1, 0.9]], rtol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0), (0.0, 0.0)])
def test_labels_are_mixed_in_shares_of_area(mixup, cutmix, random):
    height = 6
    width = 9
    draws = 400
    draw = jax.jit(jax.vmap(lambda key: share_map(key, height, width, mixup=mixup, cutmix=cutmix)))
    maps = np.asarray(draw(jax.random.split(jax.random.key(0), draws)))
    assert maps.shape == (draws, height, width)
    assert ((maps >= 0) & (maps <= 1)).all()
    flat = np.ptp(maps, axis=(1, 2)) == 0
    if not mixup and not cutmix:
        assert (maps == 1).all()
    if mixup and not cutmix:
        assert flat.all()
        # The variance of Beta(a, a) is 1 / (4 (2 a + 1)).
        assert abs(maps[:, 0, 0].mean() - 0.5) < 4 * np.sqrt(1 / (4 * 2.6) / draws)
        assert abs(maps[:, 0, 0].var() - 1 / (4 * 2.6)) < 0.02
    if cutmix and not mixup:
        for one in maps:
            rows = np.flatnonzero((one == 0).any(axis=1))
            columns = np.flatnonzero((one == 0).any(axis=0))
            # A box without a hole, and ones around it.
            assert one.sum() == height * width - len(rows) * len(columns)
            assert np.isin(one, (0, 1)).all()
            assert len(rows) == 0 or np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
        assert (maps == 0).any(axis=0).all()
    if mixup and cutmix:
        between = ((maps > 0) & (maps < 1)).all(axis=(1, 2)).mean()
        assert abs(between - 0.5) < 4 * np.sqrt(0.25 / draws)
    images = random.normal(size=(5, height, width, 2))
    targets = random.uniform(size=(5, 3))
    for own in maps[:5]:
        mixed, shared = mix_pairs(jnp.asarray(images), jnp.asarray(targets), jnp.asarray(own))
        for i in range(5):
            weight = 0.0
            for row in range(height):
                for column in range(width):
                    part = own[row, column]
                    pixel = part * images[i, row, column] + (1 - part) * images[4 - i, row, column]
                    np.testing.assert_allclose(mixed[i, row, column], pixel, atol=1e-5)
                    weight += part / (height * width)
            np.testing.assert_allclose(shared[i], weight * targets[i] + (1 - weight) * targets[4 - i], atol=1e-5)


def test_drop_path_drops_whole_branches_and_keeps_their_expectation(random):
    plain = ViT(16, 2, 2, 4)
    images = random.normal(size=(16, 8, 8, 1)).astype(np.float32)
    dropping = plain.clone(drop_path=0.5)
    key = jax.random.key(0)
    variables, same = (jax.jit(functools.partial(each.init, train=False))(key, images) for each in (plain, dropping))
    jax.tree.map(np.testing.assert_array_equal, same, variables)

    def features(module, train, **rngs):
        return jax.jit(functools.partial(module.apply, train=train, rngs=rngs))(variables, images)

    expected = features(plain, True)
    # In evaluation, and without a share, nothing changes, and no random numbers are needed.
    np.testing.assert_array_equal(features(dropping, False), expected)
    assert np.abs(features(dropping, True, drop_path=key) - expected).max() > 0.01

    shares = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, Block) and context.method_name == "__call__":
            shares.append(context.module.drop_path)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(plain.clone(depth=3, drop_path=0.4).init, train=False), key, images)
    assert shares == [0.0, 0.2, 0.4]

    tokens = np.tile(random.normal(size=(1, 3, 16)).astype(np.float32), (4000, 1, 1))
    variables = Block(2).init(key, tokens[:1])
    dropped = np.asarray(Block(2, drop_path=0.25).apply(variables, tokens, train=True, rngs={"drop_path": key}))
    # Each of the two branches is there for three quarters of the images, with 4/3 of its value, or not at all.
    kinds, counts = np.unique(dropped.round(4), axis=0, return_counts=True)
    assert len(kinds) == 4
    np.testing.assert_allclose(np.sort(counts) / 4000, [1 / 16, 3 / 16, 3 / 16, 9 / 16], atol=0.03)
    # A block whose second branch is 0 shows the first one.
    silent = jax.tree.map(jnp.zeros_like, variables["params"]["down"])
    attended = Block(2).apply({"params": variables["params"] | {"down": silent}}, tokens[:1])[0] - tokens[0]
    for one in (tokens[0], tokens[0] + attended * 4 / 3):
        assert np.isclose(kinds, one, atol=1e-3).all(axis=(1, 2)).sum() == 1
