"""Leaks in `tools.evaluate`: test images among the sources that the cards of encoders name."""

import types

import numpy as np
import pytest
from pictures import Pictures, jpeg

from sslshift.data import open_source
from sslshift.data.decode import Canvas
from sslshift.transfer.leaks import CACHE, LeakFinder, OnCanvas
from sslshift.transfer.matrix_leaks import find_matrix_leaks, sources_of


@pytest.fixture
def clothes(monkeypatch):
    monkeypatch.setenv(CACHE, "")
    source = open_source("bundled:fashion_mnist/test")
    return [source.image(index) for index in range(60)]


def task(images, name="parts"):
    return types.SimpleNamespace(name=name, test=(Pictures(images), np.arange(len(images))), canvas=Canvas(28, 28, 1))


def test_test_images_that_an_encoder_was_pretrained_on_are_found(clothes):
    # Three test images are in the source as they are, and two of them as JPEG files.
    seen = Pictures([*clothes[20:40], *clothes[:3], *(jpeg(image, 75) for image in clothes[3:5])], "memory:seen")
    other = Pictures(clothes[40:], "memory:other")
    sources = {"memory:seen": seen, "memory:other": other}
    cards = {
        "first": [{"sources": {"memory:seen": {"unique": 25, "fingerprint": seen.fingerprint}}}],
        "second": [{"sources": ["memory:seen", "memory:other"]}],
        "published": [{}],
    }
    found = find_matrix_leaks(cards, [task(clothes[:20])], sources.__getitem__)
    warning, unknown = found.sentences
    assert warning.startswith("WARNING: parts: 3 of the 20 test images are also in memory:seen, pixel for pixel; 2 others are")
    assert "accuracies of encoders that were pretrained on it (first; second) may be too high; leaks.csv lists" in warning
    assert "pretrained on by published: no card says which images it saw, or those" in unknown
    assert sorted(row[3] for row in found.rows) == [0, 1, 2, 3, 4]
    assert {row[:2] for row in found.rows} == {("parts", "memory:seen")}
    assert len(found.csv.splitlines()) == 6


def test_what_an_encoder_saw_before_its_training_continued_is_searched_too(clothes):
    seen = Pictures(clothes[:4], "memory:seen")
    sources = {"memory:seen": seen, "memory:own": Pictures(clothes[40:], "memory:own")}
    known = {"sources": ["memory:own"], "init": {"sources": ["memory:seen"]}}
    (warning,) = find_matrix_leaks({"continued": [known]}, [task(clothes[:20])], sources.__getitem__).sentences
    assert warning.startswith("WARNING: parts: 4 of the 20 test images are also in memory:seen")
    published = {"sources": ["memory:own"], "init": {"digest": "0", "file": "dinov2.safetensors"}}
    (unknown,) = find_matrix_leaks({"continued": [published]}, [task(clothes[:20])], sources.__getitem__).sentences
    assert "pretrained on by continued" in unknown


def test_a_source_that_cannot_be_opened_or_has_changed_is_not_passed_over(clothes):
    def opened(uri):
        if uri == "folder:/gone":
            raise ValueError("there is no folder /gone.")
        return Pictures(clothes[:5], uri)

    cards = {"run": [{"sources": {"folder:/gone": {}, "memory:seen": {"fingerprint": "of 4 images"}}}]}
    warning, unknown = find_matrix_leaks(cards, [task(clothes[:20])], opened).sentences
    assert "5 of the 20 test images" in warning
    assert "the source has changed since, or its study withheld some images" in warning
    assert unknown == (
        "It is not known whether test images were pretrained on: folder:/gone cannot be opened here (there is no folder /gone)"
    )


def test_nothing_is_said_if_nothing_is_shared(clothes):
    source = open_source("synthetic:noise?size=30")
    cards = {"run": [{"sources": {"a": {}, "b": {}}}]}
    sources = {"a": Pictures(clothes[30:]), "b": source}
    assert find_matrix_leaks(cards, [task(clothes[:20])], sources.__getitem__).sentences == []


def test_cards_of_every_kind_name_their_sources():
    assert sources_of({}) == sources_of({"sources": None}) == {}
    assert sources_of({"sources": ["a", "b"]}) == {"a": {}, "b": {}}
    assert sources_of({"sources": {"a": {"unique": 3}}}) == {"a": {"unique": 3}}


def test_images_are_compared_as_an_encoder_sees_them(clothes):
    # At its own size and proportions a picture can differ from one that looks the same on the canvas.
    wide = [np.pad(image, ((0, 0), (14, 14), (0, 0))) for image in clothes[:20]]
    canvas = Canvas(28, 28, 1)

    def on_canvas(images):
        source = Pictures(images)
        source.read = lambda indices, size: np.stack([images[index][:, -28 - 14 : -14] for index in indices])
        return OnCanvas(source, canvas)

    finder = LeakFinder(OnCanvas(Plain(clothes[:20]), canvas), np.arange(20), colour=False, note=print)
    assert finder.leaks(on_canvas(wide)).count == 20
    assert OnCanvas(Plain(clothes), canvas).content_key() is None


class Plain(Pictures):
    """Images that are on their canvas already."""

    def read(self, indices, canvas):
        return np.stack([self.images[index] for index in indices])
