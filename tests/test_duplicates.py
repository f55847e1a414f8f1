"""Duplicates of a source: counts, groups, and the source without them."""

import numpy as np
import pytest
from pictures import Pictures, jpeg, resized
from PIL import Image

from sslshift.data import open_source
from sslshift.data.curation import (
    deduplicated,
    find_duplicates,
    find_leaks,
    perceptual_hash,
)
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.data.reframed import Crop, cut_out, windows
from sslshift.data.sources import PartialSource


@pytest.fixture
def twice(photographs):
    """30 photographs, of which 3 come again, 2 as JPEG and one reduced to half; and four flat images, two of them equal."""
    images = list(photographs[:30])
    images += [images[4].copy(), images[9].copy(), images[4].copy()]
    images += [jpeg(images[0], 60), jpeg(images[9], 80), resized(images[1], 0.5)]
    images += [np.full((64, 64, 3), gray, np.uint8) for gray in (0, 255, 254, 255)]
    return Pictures(images)


@pytest.mark.parametrize(("by", "near"), [("digest", 0), ("hash", 3), ("pixels", 3)])
def test_duplicates_of_a_source_are_counted(twice, by, near):
    found = find_duplicates(twice, by=by)
    assert list(zip(found.exact.first.tolist(), found.exact.second.tolist(), strict=True)) == [
        (4, 30),
        (9, 31),
        (4, 32),
        (37, 39),
    ]
    assert (found.count, found.near.count, found.effective_unique) == (40, near, 36 - near)
    if near:
        assert {(0, 33), (9, 34), (1, 35)} == set(zip(found.near.first.tolist(), found.near.second.tolist(), strict=True))
    assert (twice.reads == 1).all()


def test_deduplicated_source_has_the_first_of_each_group(twice):
    kept = deduplicated(twice)
    assert len(kept) == 33
    assert (kept.image(30) == twice.images[36]).all()
    assert find_duplicates(kept).effective_unique == 33
    assert deduplicated(kept) is kept


def test_duplicates_by_features_are_those_of_the_given_array(twice, random):
    features = random.normal(size=(40, 16))
    features[20] = 2 * features[3]
    found = find_duplicates(twice, by="features", features=features, min_cosine=0.99)
    assert (found.near.first.tolist(), found.near.second.tolist()) == ([3], [20])
    assert found.effective_unique == 35


def test_stored_hashes_spare_reading_all_but_candidates(twice):
    hashes = np.array([perceptual_hash(image) for image in twice.images])
    digests = [image.tobytes() for image in twice.images]
    expected = find_duplicates(twice)
    stored = Pictures(twice.images, stored=(digests, hashes))
    assert find_duplicates(stored, by="hash").effective_unique == 33
    assert stored.reads.sum() == 0
    found = find_duplicates(stored)
    assert (found.groups == expected.groups).all()
    assert np.flatnonzero(stored.reads).tolist() == [0, 1, 9, 33, 34, 35]


def test_imported_sources_have_their_duplicates_and_leaks_found(twice, photographs, tmp_path):
    for folder, images in (("pretraining", twice.images), ("test", photographs[25:40])):
        (tmp_path / folder).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{i:02}.png")
        run_import(Import(tmp_path / folder, tmp_path / f"{folder}-stored", Encoding(64)), workers=0)
    source, test = (open_source(f"arrayrecord:{tmp_path}/{folder}-stored") for folder in ("pretraining", "test"))
    found = find_duplicates(source)
    assert (found.exact.count, found.near.count) == (4, 3)
    # A folder of images at full size against images that were made smaller and stored as JPEG.
    for own in (source, open_source(f"folder:{tmp_path}/pretraining")):
        leaks = find_leaks(own, test)
        assert (np.unique(leaks.pairs.first).tolist(), leaks.test_indices.tolist()) == (list(range(25, 30)), list(range(5)))


def test_similar_clothes_are_no_duplicates_though_their_hashes_say_so():
    source = PartialSource(open_source("bundled:fashion_mnist"), np.arange(3000, 9000))
    found = find_duplicates(source)
    # By sight: one dress, one hooded jacket of the 6,000.
    assert (found.near.first + 3000).tolist() == [3568]
    assert (found.near.second + 3000).tolist() == [5448]
    assert found.missed.distance.min() > 1 - 0.996
    assert find_duplicates(source, by="hash").effective_unique < 5700


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "looks"}, "one of digest, hash, pixels, features for by, got 'looks'"),
        ({"by": "features"}, "Expected features"),
        ({"by": "features", "features": np.ones((3, 2))}, "has 40 images, but there are 3 rows"),
        ({"min_correlation": 0}, "above 0 and at most 1, got 0"),
        ({"max_distance": 65}, "0 to 64 bits"),
    ],
)
def test_wrong_arguments_are_one_sentence(twice, arguments, message):
    with pytest.raises(ValueError, match=message):
        find_duplicates(twice, **arguments)


def pieces(random, count):
    """Pictures with structure at several scales, as photographs have it."""
    for _ in range(count):
        layers = [random.uniform(0, 255, (side, side, 3)).astype(np.uint8) for side in (4, 9, 20)]
        large = [np.asarray(Image.fromarray(each).resize((96, 96), Image.Resampling.BICUBIC), float) for each in layers]
        yield (0.5 * large[0] + 0.3 * large[1] + 0.2 * large[2]).astype(np.uint8)


def test_mirrored_and_cropped_copies_are_found_when_asked_for_and_nothing_else(random):
    images = list(pieces(random, 40))
    mirrored = [image[:, ::-1].copy() for image in images[:10]]
    # Windows at a corner, in the middle, and of a mirrored picture.
    cropped = [image[:86, 5:91] for image in images[10:15]] + [image[9:87, 9:87] for image in images[15:20]]
    both = [image[4:90, ::-1][:, 2:88] for image in images[20:25]]
    source = Pictures([*images, *mirrored, *cropped, *both])

    def found(*also):
        pairs = find_duplicates(source, also=also).near
        return {*zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)}

    planted = {(index, 40 + index) for index in range(25)}
    assert found() == set()
    assert found("mirrored") == {pair for pair in planted if pair[1] < 50}
    assert found("cropped") == {pair for pair in planted if 50 <= pair[1] < 60}
    assert found("mirrored", "cropped") == planted
    # Another colour is another picture, mirrored or not.
    red = Pictures([images[0], mirrored[0][..., [1, 0, 2]]])
    assert find_duplicates(red, also=("mirrored", "cropped")).near.count == 0
    with pytest.raises(ValueError, match="Expected by='pixels' to search for mirrored images, got 'hash'"):
        find_duplicates(source, by="hash", also=("mirrored",))


def test_windows_keep_four_fifths_and_are_cut_where_they_say(random):
    grid = windows()
    assert grid[0] == (0, 0, 1)
    assert len(grid) == 1 + 4 + 9 + 16 + 25
    assert all(window.size >= 0.8 - 1e-9 and max(window.left, window.top) + window.size <= 1 + 1e-9 for window in grid)
    # A picture that is linear in both directions stays so, between the values at the edges of its window.
    y, x = np.mgrid[:32, :32] + 0.5
    (cut,) = cut_out((2 * x + 3 * y).astype(np.float32), [Crop(0.1, 0.05, 0.85)])
    middle = np.s_[6:26, 6:26]
    assert np.abs(cut - (2 * (3.2 + 0.85 * x) + 3 * (1.6 + 0.85 * y)))[middle].max() < 0.05
