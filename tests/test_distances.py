"""Properties that every distance between sets of features must have."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sslshift.shift import frechet_distance, kernel_distance, proxy_a_distance, rbf_mmd, sliced_wasserstein, visual_dna_distance
from sslshift.shift.distances.kernel import kernel_distance_estimate

KEY = jax.random.key(0)
OTHER_KEY = jax.random.key(1)

# Every distance with the fewest images that it takes on each side.
DISTANCES = {
    "frechet": (frechet_distance, 2),
    "kernel": (kernel_distance, 2),
    "kernel_estimate": (lambda x, y: kernel_distance_estimate(x, y).value, 3),
    "rbf": (rbf_mmd, 1),
    "visual_dna": (visual_dna_distance, 1),
    "sliced": (lambda x, y: sliced_wasserstein(x, y, key=KEY, directions=16), 1),
    "proxy_a": (lambda x, y: proxy_a_distance(x, y, key=KEY), 2),
}
each_distance = pytest.mark.parametrize(("distance", "least"), DISTANCES.values(), ids=DISTANCES)


@each_distance
def test_order_of_rows_and_of_sides_does_not_matter(distance, least, random):
    del least
    x = random.normal(size=(37, 5))
    y = random.normal(size=(53, 5)) * 1.5 + 0.3
    value = distance(x, y)
    assert distance(random.permutation(x), random.permutation(y)) == pytest.approx(value, rel=1e-9, abs=1e-12)
    assert distance(y, x) == pytest.approx(value, rel=1e-9, abs=1e-12)


@each_distance
def test_a_set_is_no_farther_from_itself_than_rounding(distance, least, random):
    del least
    x = random.normal(size=(30, 4)) @ random.normal(size=(4, 50)) + 3
    # The unbiased one has no diagonal: on equal sets it is below 0.
    value = distance(x, x.copy())
    assert value < 0 if distance in (kernel_distance, DISTANCES["kernel_estimate"][0]) else value == pytest.approx(0, abs=1e-9)


@each_distance
def test_float32_and_whole_numbers_are_taken_at_their_value(distance, least, random):
    del least
    x, y = random.integers(-9, 9, (2, 40, 3))
    value = distance(x.astype(np.float64), y.astype(np.float64) + 1)
    for dtype in (np.float32, np.float16, jnp.bfloat16, np.int16):
        assert distance(x.astype(dtype), (y + 1).astype(dtype)) == value
    assert distance(np.asfortranarray(x.repeat(2, axis=0))[::2], (y + 1).tolist()) == value


@each_distance
def test_features_on_eight_devices_are_those_on_one(distance, least, random):
    del least
    x, y = random.normal(size=(2, 40, 3)).astype(np.float32)
    split = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec("data"))
    assert distance(*(jax.device_put(side, split) for side in (x, y))) == distance(x, y)


@each_distance
def test_bad_features_are_refused_in_one_sentence(distance, least, random):
    x = random.normal(size=(10, 3))
    holed = x.copy()
    endless = x.copy()
    holed[7, 1] = np.nan
    endless[2, 0] = -np.inf
    for bad, message in (
        (holed, "finite features, but features of image 7"),
        (endless, "finite features, but features of image 2"),
        (x[:, :2], "dimensions"),
        (x[0], "matrix"),
        (x[:0], "non-empty matrix"),
        (x[:, :0], "non-empty matrix"),
        (x * 1j, "real numbers"),
        (x.astype(str), "real numbers"),
    ):
        for sides in ((x, bad), (bad, x)):
            with pytest.raises(ValueError, match=message) as raised:
                distance(*sides)
            assert "\n" not in str(raised.value)
    if least > 1:
        with pytest.raises(ValueError, match=rf"at least ({least}|two) images on each side, got {least - 1} and 10"):
            distance(x[: least - 1], x)
    assert math.isfinite(distance(x[:least], x))
