"""Perceptual hashes and the likeness of pictures: stable under changes that copies undergo, far apart for others."""

import numpy as np
import pytest
from pictures import brighter, jpeg, resized
from PIL import Image
from scipy.fft import dctn

from sslshift.data.curation import (
    near_pairs_between_by_hash,
    near_pairs_by_hash,
    perceptual_hash,
    perceptual_hashes,
)
from sslshift.data.likeness import correlations, details_and_contrast, variants
from sslshift.data.perceptual_hash import FLAT, thumbnails


def bits(a, b):
    return np.bitwise_count(np.asarray(a) ^ np.asarray(b)).astype(int)


def test_hash_has_a_bit_for_every_frequency_above_the_median():
    # A cosine of 3 periods' halves down and 2 across: that frequency and the mean are positive, all others zero.
    x = (2 * np.arange(32) + 1) * np.pi / 64
    wave = 128 + 60 * np.cos(3 * x)[:, None] * np.cos(2 * x)
    assert perceptual_hash((wave + 0.5).astype(np.uint8)[..., None]) == (1 << 63) | (1 << (63 - (3 * 8 + 2)))


@pytest.mark.parametrize("shape", [(28, 28, 1), (40, 75, 3), (256, 200, 3)])
def test_hash_is_that_of_an_explicit_drawing_and_transform(shape, random):
    small = random.integers(0, 256, (6, 7, shape[2]), np.uint8)
    image = np.stack([np.asarray(Image.fromarray(small[..., c]).resize(shape[1::-1])) for c in range(shape[2])], -1)
    gray = (image @ [0.299, 0.587, 0.114] if shape[2] == 3 else image[..., 0]).astype(np.float32)
    drawn = np.asarray(Image.fromarray(gray).resize((32, 32), Image.Resampling.LANCZOS))
    low = dctn(drawn, norm="ortho")[:8, :8].ravel()
    expected = int("".join("1" if value > np.median(low) + 1 else "0" for value in low), 2)
    assert bits(perceptual_hash(image), np.uint64(expected)) <= 1


def test_hashes_of_many_are_those_of_each(photographs):
    assert perceptual_hashes(photographs).tolist() == [int(perceptual_hash(image)) for image in photographs]
    assert perceptual_hashes(photographs).dtype == np.uint64


@pytest.mark.parametrize(
    "change",
    [
        lambda i: jpeg(i, 50),
        lambda i: resized(i, 0.5),
        lambda i: resized(i, 3),
        lambda i: brighter(i, 12),
        lambda i: i[1:, :-1],
    ],
)
def test_hash_hardly_changes_when_a_picture_is_stored_again(photographs, change):
    changed = [perceptual_hash(change(image)) for image in photographs]
    assert bits(perceptual_hashes(photographs), np.array(changed)).max() <= 6


def test_hashes_of_different_pictures_are_far_apart(photographs):
    hashes = perceptual_hashes(photographs)
    others = bits(hashes[:, None], hashes)[np.triu_indices(len(hashes), 1)]
    assert np.median(others) > 24
    assert others.min() > 8


def test_flat_images_have_a_hash_of_their_own_and_are_near_to_nothing(photographs, random):
    flat = np.full((4, 256, 256, 3), 255, np.uint8)
    flat[1] = 0
    flat[2] = (10, 200, 90)
    flat[3] = 128 + random.integers(-1, 2, flat[3].shape)
    hashes = perceptual_hashes(np.concatenate([flat, photographs]))
    assert (hashes[:4] == FLAT).all()
    assert (hashes[4:] != FLAT).all()
    assert near_pairs_by_hash(hashes[:8], 30).first.min(initial=99) >= 4
    assert near_pairs_between_by_hash(hashes[:4], hashes, 64).count == 0


def test_drawings_with_few_frequencies_survive_compression():
    # Most coefficients are zero but for rounding, which must not decide their bits.
    stripes = np.repeat(np.uint8([40, 200] * 4), 32)[:, None, None] * np.ones((1, 256, 3), np.uint8)
    assert bits(perceptual_hash(stripes), perceptual_hash(jpeg(stripes, 75))) <= 1


# Likeness.


def details(gray):
    return details_and_contrast(gray)[0]


def test_detail_is_the_same_at_any_brightness_and_contrast(photographs):
    gray = thumbnails(photographs)
    np.testing.assert_allclose(correlations(details(gray), details(0.5 * gray + 20)), 1, atol=1e-4)
    others = details(gray) @ details(gray).T - np.eye(len(gray))
    assert others.max() < 0.9


def test_flat_thumbnails_have_no_detail():
    assert (details(np.full((1, 32, 32), 77, np.float32)) == 0).all()


def test_variants_are_the_picture_itself_then_cut_grown_and_reduced(photographs):
    image = photographs[0]
    made = variants(thumbnails(image[None]))[0]
    np.testing.assert_allclose(made[0], thumbnails(image[None])[0], atol=1e-3)
    side = image.shape[0] / 28
    cuts = [image[round(top * side) :, : round(256 - right * side)] for top in (0, 1) for right in (0, 1)]
    for changed in [*cuts, np.pad(image, ((9, 0), (0, 0), (0, 0)), mode="edge"), resized(image, 16 / 256)]:
        found = details(made) @ details(thumbnails(changed[None]))[0]
        assert found.max() > 0.99
