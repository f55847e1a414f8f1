"""Leaks: changed copies of test images are found in a source, and no other image is reported."""

import shutil

import numpy as np
import pytest
from pictures import CHANGES, Pictures, jpeg
from PIL import Image
from rich.console import Console
from source_builders import array_record, encoded
from tiny_studies import tiny

from sslshift.array_cache import ArrayCache
from sslshift.data import open_source
from sslshift.data.curation import (
    find_leaks,
)
from sslshift.data.curation.identities import Identities
from sslshift.data.curation.leaks import LeakSearch
from sslshift.data.likeness import may_correlate, sketches
from sslshift.data.noise import NoiseSource
from sslshift.data.sources import ArraySource, CachedSource, PartialSource
from sslshift.storage import Store
from sslshift.study import leaks as leaks_of_study
from sslshift.study.opened import open_study
from sslshift.study.progress import Progress
from sslshift.transfer.leaks import CACHE


@pytest.fixture(scope="module")
def clothes():
    return open_source("bundled:fashion_mnist"), open_source("bundled:fashion_mnist/test")


@pytest.mark.parametrize("change", CHANGES)
def test_changed_test_images_are_found_among_similar_ones_and_nothing_else(clothes, change):
    train, test = clothes
    planted = np.arange(1000, 1060)
    images = [train.image(i) for i in range(3000)] + [CHANGES[change](test.image(i)) for i in planted]
    leaks = find_leaks(Pictures(images), test, np.arange(900, 1400))
    assert set(leaks.test_indices) <= set(planted)
    assert leaks.count >= 0.96 * len(planted)
    assert (leaks.pairs.first - 3000 == leaks.pairs.second - 1000).all()
    assert set(leaks.how) == {"same pixels" if change == "none" else "near"}
    assert leaks.missed.distance.min() > 1 - 0.996


def test_leaks_that_the_bundled_clothes_really_have(clothes):
    train, test = clothes
    # By sight: a dress and a shirt, and trousers that the test split holds twice.
    leaks = find_leaks(PartialSource(train, np.arange(11_000, 19_000)), test, np.array([4998, 7, 2605, 2115, 4926, 100]))
    pairs = zip((leaks.pairs.first + 11_000).tolist(), leaks.pairs.second.tolist(), strict=True)
    assert list(pairs) == [(11932, 2605), (13360, 4998), (18494, 2115), (18494, 4926)]
    assert (leaks.count, np.unique(leaks.pairs.first).tolist()) == (4, [932, 2360, 7494])
    assert set(leaks.how) == {"near"}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_photographs_are_found(photographs, change):
    source = Pictures([CHANGES[change](image) for image in photographs[:20]])
    leaks = find_leaks(source, Pictures(list(photographs)))
    assert (leaks.pairs.first == leaks.pairs.second).all()
    assert leaks.count >= 19


def test_every_image_concerned_is_in_a_pair_and_same_pixels_go_before_near(photographs):
    a, b, c = photographs[:3]
    source = Pictures([a, jpeg(b, 60), a.copy(), b, c])
    leaks = find_leaks(source, Pictures([b, a, b.copy(), jpeg(a, 60)]))
    assert leaks.test_indices.tolist() == [0, 1, 2, 3]
    assert np.unique(leaks.pairs.first).tolist() == [0, 1, 2, 3]
    same = [pair for pair, how in zip(zip(*leaks.pairs[:2], strict=True), leaks.how, strict=True) if how == "same pixels"]
    assert same == [(0, 1), (2, 1), (3, 0), (3, 2)]


def test_flat_images_leak_where_their_pixels_are_the_same():
    flat = [np.full((20, 20, 1), gray, np.uint8) for gray in (0, 128, 255)]
    leaks = find_leaks(Pictures(flat[:2]), Pictures(flat[1:]))
    assert (leaks.pairs.first.tolist(), leaks.pairs.second.tolist(), leaks.how) == ([1], [0], ("same pixels",))


def test_generated_images_are_in_no_test_split(clothes):
    leaks = find_leaks(open_source("synthetic:dead_leaves?size=300"), clothes[1], np.arange(300))
    assert (leaks.count, leaks.pairs.count, leaks.how) == (0, 0, ())


def test_generated_images_are_known_to_be_no_copies_in_any_wrapper(gray_source, canvas):
    noise = open_source("synthetic:noise?size=30&seed=1")
    others = [open_source("synthetic:noise?size=30&seed=2"), open_source("synthetic:dead_leaves?size=30&seed=1"), gray_source]
    like = NoiseSource(gray_source, np.arange(5), canvas, 0)
    for source in (noise, PartialSource(noise, np.arange(4)), CachedSource(noise, canvas), like):
        assert all(source.shares_none_with(other) for other in others)
    # Two sources of one generator and seed begin with the same images.
    assert not CachedSource(noise, canvas).shares_none_with(open_source("synthetic:noise?size=10&seed=1"))
    assert not gray_source.shares_none_with(noise)


def test_a_study_hashes_no_generated_image_and_says_so(tmp_path, monkeypatch):
    seen = []
    among = LeakSearch.among
    monkeypatch.setattr(LeakSearch, "among", lambda self, source: seen.append(source.name) or among(self, source))
    opened = open_study(tiny(f"--out={tmp_path}", "--shift_images=0"))
    found = leaks_of_study.search_leaks(opened, Store(), Progress(Console(quiet=True)))
    assert seen == ["bundled:mnist"]
    assert found["synthetic:noise?size=300"].why == "generated images are functions of a seed and cannot be copies"
    # Test images of the same generator and seed are found nevertheless.
    same = "synthetic:events?size=60"
    opened = open_study(
        tiny(
            f"--out={tmp_path / 'same'}",
            f"--sources={same}@60",
            f"--downstream={same}&seed=1",
            f"--downstream_test={same}",
            "--labelled=40",
        )
    )
    found = leaks_of_study.search_leaks(opened, Store(), Progress(Console(quiet=True)))
    assert found[same].equal == 60


@pytest.mark.parametrize("missed", [True, False])
def test_one_search_in_several_sources_finds_what_separate_searches_find(photographs, missed):
    search = LeakSearch(Pictures(list(photographs)), np.arange(1, 40), missed=missed)
    sources = [Pictures([CHANGES[change](image) for image in photographs[:20]]) for change in ("half", "jpeg 75", "none")]
    for source in (*sources, Pictures([255 - image for image in photographs[:5]])):
        found = search.among(source)
        alone = find_leaks(source, Pictures(list(photographs)), np.arange(1, 40))
        for side, expected in zip(found.pairs, alone.pairs, strict=True):
            np.testing.assert_array_equal(side, expected)
        assert found.how == alone.how
        assert found.missed.count == (alone.missed.count if missed else 0)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.09, 0.3, 3.0])
def test_sketches_reject_no_detail_that_correlates(random, noise):
    a = random.normal(size=(400, 256)) * random.exponential(size=256)
    b = a + noise * random.normal(size=(400, 256)) * random.exponential(size=256)
    a, b = ((each / np.linalg.norm(each, axis=1, keepdims=True)).astype(np.float32) for each in (a, b))
    kept = may_correlate(sketches(a), sketches(b), 0.996)
    correlated = np.einsum("nd,nd->n", a, b) >= 0.996
    assert not (correlated & ~kept).any()
    assert kept.all() if not noise else noise < 3 or not kept.any()


def test_identities_from_the_cache_are_those_of_the_images(photos, tmp_path):
    source = open_source(f"folder:{photos}")
    cache = ArrayCache(tmp_path / "cache", 1 << 20, pytest.fail)
    first = Identities(source, cache)
    again = Identities(Unreadable(source), cache)
    every = np.arange(len(source))
    np.testing.assert_array_equal(again.hashes, first.hashes)
    assert again.digests == first.digests == Identities(source).digests == again.pixels(every)
    # Details are not kept; they are read when a candidate needs them.
    with pytest.raises(AssertionError, match="an image was read"):
        again.details(every)
    np.testing.assert_array_equal(Identities(source, cache).details(every), first.details(every))


def test_a_second_study_on_the_same_images_reads_none_of_them_for_leaks(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    test = open_source("bundled:mnist/test")
    (tmp_path / "web").mkdir()
    for index in range(30):
        image = test[index]["image"][..., 0]
        Image.fromarray(image if index < 3 else np.rot90(image)).save(tmp_path / f"web/{index:02d}.png")

    def search(out, read):
        opened = open_study(tiny(f"--out={tmp_path / out}", f"--sources=folder:{tmp_path / 'web'}@30", "--shift_images=0"))
        monkeypatch.setattr(LeakSearch, "_among", among if read else lambda self, source: pytest.fail("searched again"))
        return leaks_of_study.search_leaks(opened, Store(), Progress(Console(quiet=True)))

    among = LeakSearch._among
    found = search("first", True)
    (leaks,) = found.values()
    assert (leaks.count, leaks.equal) == (3, 3)
    assert search("second", False) == found
    assert (tmp_path / "second/leaks.csv").read_bytes() == (tmp_path / "first/leaks.csv").read_bytes()
    # Another image is another content.
    Image.fromarray(test[3]["image"][..., 0]).save(tmp_path / "web/29.png")
    (leaks,) = search("third", True).values()
    assert leaks.equal == 4
    # Without a cache nothing is kept, and nothing of it is read.
    monkeypatch.setenv(CACHE, "")
    assert search("fourth", True) == dict.fromkeys(found, leaks)


def test_contents_are_known_where_every_byte_is(gray_source, canvas, photos, tmp_path):
    images = np.arange(2 * 6 * 8, dtype=np.uint8).reshape(2, 6, 8, 1)
    shapes = [images, images.reshape(2, 8, 6, 1), images.reshape(1, 12, 8, 1), images + 1]
    assert len({ArraySource("memory:x", each).content_key() for each in shapes}) == 4
    key = gray_source.content_key()
    assert CachedSource(gray_source, canvas).content_key() == key
    assert len({key, *(PartialSource(gray_source, np.arange(n, 5)).content_key() for n in (0, 1))}) == 3
    for generated in (open_source("synthetic:noise?size=9"), NoiseSource(gray_source, np.arange(3), canvas, 0)):
        assert generated.content_key() is PartialSource(generated, np.arange(2)).content_key() is None
    key = open_source(f"folder:{photos}").content_key()
    shutil.copytree(photos, tmp_path / "copy")
    assert open_source(f"folder:{tmp_path / 'copy'}").content_key() == key
    (photos / "cats/a.png").write_bytes((photos / "dogs/c.png").read_bytes())
    assert open_source(f"folder:{photos}").content_key() != key


def test_a_large_shard_that_changes_in_its_middle_has_another_content(tmp_path):
    path = tmp_path / "a.array_record"
    array_record(path, [encoded(i) + bytes(np.random.default_rng(i).integers(0, 256, 40_000, np.uint8)) for i in range(9)])
    source = open_source(f"arrayrecord:{path}")
    key = source.content_key()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    changed = open_source(f"arrayrecord:{path}")
    assert changed.fingerprint == source.fingerprint
    assert changed.content_key() != key


class Unreadable(PartialSource):
    """All images of a source, none of which may be read."""

    def __init__(self, source):
        super().__init__(source, np.arange(len(source)))

    def content_key(self):
        return self.whole.content_key()

    def image(self, index, canvas=None):
        raise AssertionError("an image was read")
