"""Pictures that differ in colour alone are different, and images of different labels are not dropped unnoticed."""

import colorsys
import csv
import io
import subprocess
import sys

import numpy as np
import pytest
from pictures import Pictures
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images

from sslshift.data import ArraySource, open_source
from sslshift.data.curation import deduplicated, find_duplicates, find_leaks, perceptual_hashes
from sslshift.data.curation.duplicates import mixed_groups
from sslshift.data.curation.identities import Identities
from sslshift.data.curation.leaks import differently_labelled
from sslshift.data.curation.report import label_text
from sslshift.data.decode import from_image
from sslshift.data.likeness import correlations
from sslshift.data.records.encode import Encoding
from sslshift.data.records.importing import Import
from sslshift.data.records.running import run_import
from sslshift.transfer.leaks import LeakedPair, SourceLeaks
from tools.bench_pictures import COLOURS, SHAPES, icon


def icons(shape, colours, side=64, **how):
    return [from_image(icon(shape, COLOURS.get(colour, colour), side, **how)) for colour in colours]


def stored(image, quality=75, subsampling=2):
    content = io.BytesIO()
    Image.fromarray(image.squeeze()).save(content, "JPEG", quality=quality, subsampling=subsampling)
    return from_image(Image.open(content))


def resized(image, side):
    return from_image(Image.fromarray(image.squeeze()).resize((side, side), Image.Resampling.BICUBIC))


def effective(*images):
    return find_duplicates(Pictures(list(images))).effective_unique


@pytest.fixture(scope="module")
def photographs():
    tiles = [
        photo[y : y + 96, x : x + 96] for photo in load_sample_images().images for y in (130, 230, 320) for x in (0, 160, 320)
    ]
    return [tile for tile in tiles if tile.std() > 40]


def balanced(image, red, blue):
    return np.clip(image * (red, 1, blue) + 0.5, 0, 255).astype(np.uint8)


# Colours.


@pytest.mark.parametrize(
    ("shape", "colours"),
    [
        ("square", ("red", "grey")),
        ("heart", ("blue", "pink")),
        ("heart", ("black", "grey")),
        ("disc", ("black", "dark grey")),
        ("square", ("yellow", "orange")),
        # Of the same luma.
        ("square", ((255, 0, 0), (0, 130, 0), (76, 76, 76))),
        # Skin tones of emoji.
        ("disc", ((247, 222, 206), (243, 210, 162), (212, 171, 136), (175, 126, 87), (124, 83, 62))),
        ("bar", ("red", "blue", "green", "purple")),
    ],
)
@pytest.mark.parametrize("side", [28, 64, 200])
def test_shapes_that_differ_in_colour_alone_are_different_images(shape, colours, side):
    images = icons(shape, colours, side)
    identities = Identities(Pictures(images))
    first = np.zeros(len(images) - 1, int)
    # What was compared before: the detail of their brightness.
    assert (correlations(identities.details(first), identities.details(first + np.arange(1, len(images)))) > 0.999).all()
    found = find_duplicates(Pictures(images))
    assert found.effective_unique == len(images)
    leaks = find_leaks(Pictures(images[:1]), Pictures(images[1:]))
    assert leaks.count == 0
    # To encoders that take gray images, those of the same brightness are similar after all.
    gray = find_leaks(Pictures(images[:1]), Pictures(images[1:]), colour=False)
    assert gray.count == (2 if (0, 130, 0) in colours else gray.count)
    assert set(gray.how) <= {"near"}


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (90, 140, 200), (0, 0, 0, 0)])
def test_twelve_colours_of_five_shapes_are_sixty_images_on_any_ground(ground, tmp_path):
    colours = [colour for name, colour in COLOURS.items() if name not in ("black", "dark grey") or ground[0]]
    count = 0
    for shape in SHAPES:
        for number, colour in enumerate(colours if len(ground) == 3 else COLOURS.values()):
            icon(shape, colour, 48, ground=ground).save(tmp_path / f"{shape}-{number}.png")
            count += 1
    found = find_duplicates(open_source(f"folder:{tmp_path}"))
    assert (found.count, found.effective_unique) == (count, count)


def test_a_small_coloured_thing_counts_as_a_large_one():
    images = []
    for colour in ((230, 30, 30), (30, 30, 230), (120, 120, 30)):
        picture = Image.new("RGB", (256, 256), "white")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((40, 60, 215, 200), outline=(0, 0, 0), width=8)
        draw.ellipse((150, 90, 174, 114), fill=colour)
        images.append(np.asarray(picture))
    assert effective(*images) == 3
    assert effective(images[0], stored(images[0])) == 1


def test_copies_of_coloured_pictures_are_still_found(photographs):
    changes = [
        lambda image: stored(image, 90, subsampling=2),
        lambda image: stored(image, 90, subsampling=0),
        lambda image: resized(image, 64),
        lambda image: resized(image, 150),
        lambda image: np.clip(image.astype(int) + 12, 0, 255).astype(np.uint8),
        lambda image: np.clip(image * 1.1, 0, 255).astype(np.uint8),
        lambda image: balanced(image, 1.05, 0.95),
    ]
    images = photographs + [icon for shape in SHAPES for icon in icons(shape, ("red", "blue", "orange", "grey", "pink"), 96)]
    for number, change in enumerate(changes):
        leaks = find_leaks(Pictures([change(image) for image in images]), Pictures(images))
        wrong = leaks.pairs.first != leaks.pairs.second
        assert leaks.count >= len(images) - 2, number
        assert wrong.sum() <= 1, number


def test_a_gray_copy_of_a_colourful_picture_is_another_and_of_a_nearly_gray_one_is_not(photographs):
    colourful = balanced(photographs[0], 1.3, 0.6)
    gray = from_image(Image.fromarray(colourful).convert("L"))
    for copy in (gray, np.repeat(gray, 3, axis=2)):
        assert effective(colourful, copy) == 2
    faint = np.repeat(gray, 3, axis=2).copy()
    faint[..., 0] = np.minimum(faint[..., 0], 250) + 5
    assert effective(faint, gray) == 1
    # A tint is a colour.
    assert effective(np.repeat(gray, 3, axis=2), balanced(np.repeat(gray, 3, axis=2), 1.2, 0.7)) == 2


def test_every_image_that_is_dropped_is_like_the_one_that_is_kept_for_it():
    hues = [tuple(int(255 * part) for part in colorsys.hsv_to_rgb(degree / 180, 0.8, 0.9)) for degree in range(180)]
    images = icons("heart", hues, 32)
    found = find_duplicates(Pictures(images))
    # One by one all are alike.
    assert 20 < found.effective_unique < 180
    members = np.flatnonzero(found.groups != np.arange(180))
    assert (Identities(Pictures(images)).colour_differences(found.groups[members], members) == 0).all()
    assert found.near.distance.max() <= 1 - 0.996
    assert found.near.count == 180 - found.effective_unique


def test_colours_are_compared_in_sources_with_stored_hashes(tmp_path):
    images = icons("heart", ("red", "grey", "blue", "pink"), 64)
    for number, image in enumerate([*images, images[0]]):
        Image.fromarray(image).save(tmp_path / f"{number}.png", compress_level=number)
    run_import(Import(tmp_path, tmp_path / "stored", Encoding(64)), workers=0)
    source = open_source(f"arrayrecord:{tmp_path / 'stored'}")
    assert source.stored_identities() is not None
    found = find_duplicates(source)
    assert (found.near.first.tolist(), found.near.second.tolist()) == ([0], [4])
    # Hashes alone know brightness alone.
    assert find_duplicates(source, by="hash").effective_unique < 4
    assert len(set(perceptual_hashes(np.stack(images)).tolist())) < 4


def test_the_same_pixels_are_known_whatever_hash_was_stored_with_them(photographs):
    images = np.stack(photographs[:4])
    hashes = perceptual_hashes(images) ^ np.uint64(1 << 40)
    source = Pictures(list(images))
    source.stored_identities = lambda: ([bytes([number]) for number in range(4)], hashes)
    leaks = find_leaks(source, Pictures(list(images)))
    assert leaks.pairs.first.tolist() == leaks.pairs.second.tolist() == [0, 1, 2, 3]
    assert set(leaks.how) == {"same pixels"}


# Labels.


def test_groups_with_several_labels_are_found():
    groups = np.array([0, 0, 2, 2, 2, 5, 6, 6])
    assert mixed_groups(groups, np.array([1, 1, 3, 4, 4, 0, -1, 2])).tolist() == [False] * 2 + [True] * 3 + [False] * 3
    several = np.uint8([[1, 0], [1, 0], [1, 1], [1, 1], [0, 1], [0, 0], [0, 0], [0, 0]])
    assert mixed_groups(groups, several).tolist() == [False] * 2 + [True] * 3 + [False] * 3
    assert not mixed_groups(groups, None).any()


@pytest.mark.parametrize("several", [False, True])
def test_images_of_different_labels_are_kept_unless_asked_otherwise(random, several):
    images = random.integers(0, 256, (4, 24, 24, 3), np.uint8).repeat(2, axis=0)
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 1])
    labels = np.eye(3, dtype=np.uint8)[labels] if several else labels
    source = ArraySource("memory:noisy", images, labels)
    found = find_duplicates(source)
    assert (found.exact.count, found.effective_unique) == (4, 4)
    assert np.flatnonzero(found.mixed).tolist() == [2, 3, 6, 7]
    assert found.kept().tolist() == [0, 2, 3, 4, 6, 7]
    assert found.kept("first").tolist() == [0, 2, 4, 6]
    assert found.kept("drop").tolist() == [0, 4]
    assert len(deduplicated(source)) == 6
    assert len(deduplicated(source, different_labels="first")) == 4
    with pytest.raises(ValueError, match="Expected one of keep, first, drop for different_labels, got 'all'"):
        found.kept("all")
    assert len(deduplicated(ArraySource("memory:unlabelled", images))) == 4


def test_a_scratch_that_the_limit_does_not_see_is_kept_by_its_label(photographs):
    part = resized(photographs[0], 256)
    picture = Image.fromarray(part)
    ImageDraw.Draw(picture).line((100, 100, 130, 118), fill=(235, 235, 235), width=1)
    images = np.stack([part, np.asarray(picture)])
    assert find_duplicates(ArraySource("memory:parts", images)).near.count == 1
    assert len(deduplicated(ArraySource("memory:parts", images, np.array([0, 1])))) == 2


def test_labels_of_two_sources_are_compared_by_shared_names():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    source, test, other = (ArraySource(f"memory:{name}", images, np.arange(3)) for name in ("source", "test", "other"))
    source.classes = ("cat", "dog", "shoe")
    test.classes = ("dog", "cat", "sneaker")
    other.classes = None
    every = np.arange(3)
    assert differently_labelled(source, every, test, every).tolist() == [True, True, False]
    assert differently_labelled(source, every, test, np.array([1, 0, 2])).tolist() == [False, False, False]
    assert not differently_labelled(source, every, other, every).any()
    assert differently_labelled(other, every[:2], other, np.array([0, 2])).tolist() == [False, True]
    assert (label_text(source, 2), label_text(other, 2)) == ("shoe", "2")


# The command.


def command(*arguments):
    done = subprocess.run([sys.executable, "-m", "tools.find_duplicates", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def hearts(tmp_path):
    """Hearts of three classes, each twice and once enlarged; one red heart is among the pink ones as well."""
    for colour in ("red", "blue", "pink"):
        (tmp_path / "hearts" / colour).mkdir(parents=True)
        for name, side in (("a", 64), ("b", 64), ("large", 96)):
            icon("heart", COLOURS[colour], side).save(tmp_path / f"hearts/{colour}/{name}.png")
    icon("heart", COLOURS["red"], 64).save(tmp_path / "hearts/pink/wrong.png")
    return tmp_path / "hearts"


def test_the_command_keeps_and_reports_images_of_several_labels(hearts, tmp_path):
    out = tmp_path / "out"
    said = command(f"--source=folder:{hearts}?labels=folder", f"--out={out}")
    assert "10 images: 4 exact duplicates, 3 near-duplicates" in said
    assert "3 effective unique images" in said
    assert (
        "Same images, different labels: 4 images in 1 groups of duplicates that have several labels (2 pairs of equal" in said
    )
    assert f"{hearts / 'pink/wrong.png'} (pink) and {hearts / 'red/a.png'} (red); all of them are kept" in said
    page = (out / "pairs.html").read_text()
    assert "Equal images with different labels" in page
    assert "equal, pink and red" in page
    with open(out / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["first_label"], row["second_label"]) for row in rows} >= {("pink", "red"), ("blue", "blue")}
    for how, kept in (("keep", 6), ("first", 3), ("drop", 2)):
        said = command(f"--source=folder:{hearts}?labels=folder", f"--out={out}", f"--different_labels={how}")
        assert f"The {kept:,} remaining images" in said
        assert len(open_source(f"folder:{hearts}?labels=folder&keep={out / 'kept.parquet'}")) == kept


def test_the_command_says_that_folders_may_be_classes(hearts, tmp_path):
    said = command(f"--source=folder:{hearts}", f"--out={tmp_path / 'out'}")
    assert "The 3 remaining images" in said
    assert "3 pairs of duplicates are in different folders" in said
    assert "?labels=folder in the URI" in said


def test_the_command_leaves_out_copies_of_test_images_and_keeps_others_of_another_label(hearts, tmp_path):
    test = tmp_path / "test"
    out = tmp_path / "out"
    for colour in ("red", "blue", "pink"):
        (test / colour).mkdir(parents=True)
    icon("heart", COLOURS["red"], 64).save(test / "red/copy.png")
    icon("heart", COLOURS["blue"], 64).resize((96, 96)).save(test / "pink/similar.png")
    icon("square", COLOURS["blue"], 64).save(test / "blue/another.png")
    flags = (f"--source=folder:{hearts}?labels=folder", f"--against=folder:{test}?labels=folder", f"--out={out}")
    said = command(*flags)
    assert f"1 of 3 images of folder:{test}?labels=folder are also among the 10 images of" in said
    assert f"1 more are similar to images of folder:{hearts}?labels=folder but not equal" in said
    assert "Different labels on the two sides: 1 pairs with equal pixels" in said
    assert "3 similar pairs, whose images are kept" in said
    # Less the three equal red hearts and the enlarged one, of whatever label.
    assert "The 6 remaining images" in said
    assert "The 3 remaining images" in command(*flags, "--different_labels=drop")


def test_exact_duplicates_of_one_colour_are_told(tmp_path):
    for number, shape in enumerate(("heart", "disc", "bar")):
        icon(shape, (255, 255, 255), 32, ground=(255, 255, 255, 0)).save(tmp_path / f"{number}.png")
    said = command(f"--source=folder:{tmp_path}", f"--out={tmp_path / 'out'}")
    assert "2 of the exact duplicates show one colour only; white pictures on a transparent background become" in said


# Studies.


def test_a_study_says_also_in_of_equal_pixels_alone():
    same = LeakedPair(3, 7, 0.0, "same pixels", "web/3.png", "test/7.png")
    near = LeakedPair(4, 8, 0.001, "near", "web/4.png", "test/8.png")
    leaks = SourceLeaks(count=3, equal=1, same=1, near=2, other_label=1, colour=True, pairs=(same, near))
    assert leaks.sentence("folder:web", 50) == (
        "1 of the 50 test images is also in folder:web, pixel for pixel; 2 others are similar to images in it by detail and "
        "colours, for example test/8.png to web/4.png; 1 of the pairs have different labels"
    )
    leaks = SourceLeaks(count=2, near=2, pairs=(near,))
    assert leaks.sentence("folder:web", 50) == (
        "2 of the 50 test images are similar to images in folder:web by detail, without colours, which these encoders do not "
        "see, for example test/8.png to web/4.png"
    )
