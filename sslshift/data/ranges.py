"""Pixel range of a source: the values in its images of more than 8 bits that become black and white, the same for all files.

A file of 16 bits may hold values of 12 bits, and a floating-point file may hold any values. The range is therefore not a
property of a file: it is decided once for a source, by the values of all its files or by the user, and is reported.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

# Bits of the values that cameras, scanners and microscopes deliver.
_BITS = (8, 10, 12, 14, 16)


class PixelRange(NamedTuple):
    """The values that become 0 and 255.

    A range that the user stated (`stated`) also applies to floating-point images. Otherwise their range is [0, 1].
    """

    low: float
    high: float
    stated: bool = False

    @property
    def text(self) -> str:
        return f"{_plain(self.low)}..{_plain(self.high)}"


# Range of a single file of whole numbers if nothing else is known.
WHOLE = PixelRange(0, 65535)


def parse_range(text: str, name: str) -> PixelRange:
    """Returns the range that a text `LOW..HIGH` states.

    Example:
      >>> parse_range("-1000..3000", "range").text
      '-1000..3000'

    Raises:
      ValueError: the text has another form, or LOW is not below HIGH.
    """
    low, dots, high = text.partition("..")
    # A pattern is used, since float() would also accept inf, nan, underscores and digits of other scripts.
    number = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
    if not (dots and number.fullmatch(low) and number.fullmatch(high)):
        raise ValueError(f"Expected two numbers LOW..HIGH for {name}, as in 0..4095, got {text!r}.")
    stated = PixelRange(float(low), float(high), stated=True)
    if not (stated.low < stated.high and math.isfinite(stated.low) and math.isfinite(stated.high)):
        raise ValueError(f"Expected finite numbers LOW..HIGH for {name}, with LOW below HIGH, got {text!r}.")
    return stated


def with_range(fingerprint: str, stated: PixelRange | None) -> str:
    """Returns the fingerprint of a source whose images are read with a stated range."""
    return f"{fingerprint}, range {stated.text}" if stated else fingerprint


class Levels(NamedTuple):
    """Range of the values in images of more than 8 bits; whole numbers and floating-point numbers are kept apart.

    Attributes:
      floating: True for floating-point numbers.
      images, pixels: numbers of images and of pixels.
      low, high: the smallest and the largest value.
      lowest, highest: names of the images that hold them.
      bits: the largest number of significant bits that a file states (sBIT of a PNG), or 0.
      clipped_images, clipped_pixels: numbers of images and of pixels with values outside of a stated range.
    """

    floating: bool
    images: int
    pixels: int
    low: float
    high: float
    lowest: str = ""
    highest: str = ""
    bits: int = 0
    clipped_images: int = 0
    clipped_pixels: int = 0

    def of(self, image: str) -> "Levels":
        """Returns the levels of a single image with its name."""
        return self._replace(lowest=image, highest=image)


def merge_levels(levels: Iterable[Levels]) -> list[Levels]:
    """Returns the merged levels of many files: first for whole numbers, then for floating-point numbers, if there are any."""
    merged: dict[bool, Levels] = {}
    for each in levels:
        before = merged.get(each.floating)
        merged[each.floating] = _merge(before, each) if before else each
    return [merged[floating] for floating in sorted(merged)]


def _merge(a: Levels, b: Levels) -> Levels:
    least = min(a, b, key=lambda each: each.low)
    most = max(a, b, key=lambda each: each.high)
    return Levels(
        a.floating,
        a.images + b.images,
        a.pixels + b.pixels,
        least.low,
        most.high,
        least.lowest,
        most.highest,
        max(a.bits, b.bits),
        a.clipped_images + b.clipped_images,
        a.clipped_pixels + b.clipped_pixels,
    )


def decide_range(levels: Sequence[Levels], stated: PixelRange | None, name: str, option: str) -> PixelRange | None:
    """Returns the pixel range of a source, or None if no image has more than 8 bits.

    Whole numbers get the smallest range of 8, 10, 12, 14 or 16 bits that holds them all. Floating-point numbers must be in
    [0, 1].

    Args:
      levels: result of `merge_levels`.
      stated: the range that the user stated, if any.
      name: name of the source.
      option: option that states the range, such as "--range".

    Raises:
      ValueError: no range was stated, and values are negative, need more than 16 bits, or are floating-point numbers outside
        of [0, 1].
    """
    if not levels:
        return None
    if stated:
        return stated
    for each in levels:
        # Without a stated range, no unusual range is guessed: a wrong value of white would change every image.
        top = 1 if each.floating else 65535
        if each.low < 0 or each.high > top:
            kind = "floating-point" if each.floating else "integer"
            worst = each.lowest if each.low < 0 else each.highest
            raise ValueError(
                f"{name}: {kind} images ({each.images:,}) hold values from {_plain(each.low)} to {_plain(each.high)} "
                f"(e.g. {worst}), but without a stated range they must be in 0..{top}; state the values of black and white "
                f"with {option}=LOW..HIGH, or remove these images."
            )
    whole = next((each for each in levels if not each.floating), None)
    if whole is None:
        return PixelRange(0, 1)
    # A file may state more bits than its values use, for instance if a 12-bit camera took dark images.
    needed = max(int(whole.high).bit_length(), whole.bits)
    return PixelRange(0, 2 ** next(bits for bits in _BITS if bits >= needed) - 1)


def describe_range(levels: Sequence[Levels], chosen: PixelRange | None, images: int, option: str) -> list[str]:
    """Returns sentences, without full stops, about the pixel range of a source and the reason for it.

    Args:
      levels: result of `merge_levels`.
      chosen: the range that was stated or decided, if any.
      images: number of images of the source, including those of 8 bits.
      option: option that states the range, such as "--range".
    """
    if chosen is None:
        return []
    if not levels:
        return [f"the stated range {chosen.text} is not used, since no image has more than 8 bits"]
    deep = sum(each.images for each in levels)
    others = f"; images that have 8 bits or state their own range ({images - deep:,}) keep that range" if deep < images else ""
    said = []
    for each in levels:
        kind = "floating-point values" if each.floating else "integers of more than 8 bits"
        held = f"images of {kind} ({each.images:,}) hold {_plain(each.low)} to {_plain(each.high)}"
        if chosen.stated:
            clipped = f"{each.clipped_pixels / each.pixels:.2g} of the pixels, in {each.clipped_images:,} images"
            outside = f"values outside of it are clipped: {clipped}" if each.clipped_images else "no value is outside of it"
            said.append(f"{held}; the stated range {chosen.text} becomes 0 to 255, and {outside}{others}")
        elif each.floating:
            said.append(f"{held}; the range 0..1 becomes 0 to 255 in all of them{others}")
        else:
            said.append(
                f"{held}; the range {chosen.text} becomes 0 to 255 in all of them ({option}=LOW..HIGH sets another){others}"
            )
    return said


def describe_unread(stated: PixelRange | None) -> list[str]:
    """Returns the same sentences for a source whose images are not read when it is opened."""
    if not stated:
        return []
    return [f"in images of more than 8 bits the stated range {stated.text} becomes 0 to 255; clipped values are not counted"]


def compare_ranges(ranges: Mapping[str, PixelRange | None]) -> list[str]:
    """Returns a sentence, without a full stop, if sources that are compared have different pixel ranges."""
    texts = {name: chosen.text for name, chosen in ranges.items() if chosen}
    if len(set(texts.values())) < 2:
        return []
    found = ", ".join(f"{text} in {name}" for name, text in texts.items())
    return [
        f"Pixel ranges differ ({found}), so that equal values become different pixels and copies may not be found; if the "
        "images come from one kind of camera, state one range for all of them with ?range=LOW..HIGH (--range for an import)"
    ]


def _plain(value: float) -> str:
    """Returns a number as text that `parse_range` reads."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e16 else f"{value:.9g}"
