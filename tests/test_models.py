import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from sslshift.models import ENCODERS, PatchMLP, ResNet
from sslshift.models.convolution import convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((9, 9), (3, 3), (1, 1), "SAME"),
        ((9, 8), (3, 3), (2, 2), "SAME"),
        ((8, 8), (1, 1), (2, 2), "VALID"),
        ((11, 10), (4, 2), (3, 1), ((1, 2), (0, 1))),
        ((8, 8), (8, 8), (4, 4), ((2, 2), (2, 2))),
        ((12, 12), (4, 4), (4, 4), "VALID"),
        ((10, 10), (7, 7), (2, 2), ((3, 3), (3, 3))),
        # Larger than a block: rows are taken apart.
        ((60, 44), (3, 3), (1, 1), "SAME"),
        ((122, 80), (5, 3), (2, 2), ((2, 2), (1, 1))),
    ],
)
def test_convolution_has_the_gradients_of_xla(size, kernel, stride, padding, random):
    images = random.normal(size=(5, *size, 3)).astype(np.float32)
    weights = random.normal(size=(*kernel, 3, 4)).astype(np.float32)

    def value(convolution, images, weights):
        out = convolution(images, weights, stride, padding, dimension_numbers=LAYOUT)
        return jnp.sum(jnp.sin(out)), out

    ours, theirs = (
        jax.jit(jax.value_and_grad(functools.partial(value, f), argnums=(0, 1), has_aux=True))(images, weights)
        for f in (convolve, lax.conv_general_dilated)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * float(np.abs(b).max()))


@pytest.mark.parametrize("options", [{"feature_group_count": 2}, {"rhs_dilation": (2, 2)}])
def test_other_convolutions_pass_through(options, random):
    images = random.normal(size=(2, 9, 9, 4)).astype(np.float32)
    weights = random.normal(size=(3, 3, 4 // options.get("feature_group_count", 1), 4)).astype(np.float32)
    ours, theirs = (
        f(images, weights, (1, 1), "SAME", dimension_numbers=LAYOUT, **options) for f in (convolve, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder_gives_features_and_learns_nothing_in_evaluation(name, random):
    images = random.normal(size=(2, 16, 16, 3)).astype(np.float32)
    variables = ENCODERS[name].init(jax.random.key(0), images, train=False)
    features, updated = ENCODERS[name].apply(variables, images, train=False, mutable=["batch_stats"])
    assert features.ndim == 2
    assert np.isfinite(features).all()
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])
    alone = ENCODERS[name].apply(variables, images[:1], train=False)
    np.testing.assert_allclose(alone[0], features[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("small_images", "count"), [(True, 11_168_832), (False, 11_176_512)])
def test_resnet18_has_the_known_number_of_parameters(small_images, count):
    # torchvision's ResNet-18 without its last layer: 11,689,512 - 513,000; the CIFAR stem is 3 x 3 in place of 7 x 7.
    model = ResNet(small_images=small_images)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count


def test_patches_must_divide_the_image():
    with pytest.raises(ValueError, match="30 x 30 cannot be cut into patches of 4"):
        PatchMLP().init(jax.random.key(0), jnp.zeros((1, 30, 30, 1)), train=False)
