"""Opens a source by its URI: the schemes, and the options of each scheme."""

import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sslshift.data import bundled, scenes, synthetic
from sslshift.data.ranges import PixelRange, parse_range
from sslshift.data.sources.array_record import ArrayRecordSource
from sslshift.data.sources.base import PartialSource, Source, Terms, printable
from sslshift.data.sources.files import FolderSource, ListSource
from sslshift.data.sources.kept import load_kept
from sslshift.data.sources.memory import ArraySource, SceneSource, SyntheticSource
from sslshift.data.sources.prepared import PreparedSource, parse_prepared
from sslshift.data.sources.uri import Uri, parse_uri, require_options, spelled


def _open_bundled(uri: str, name: str, options: dict[str, str]) -> Source:
    name, _, split = name.partition("/")
    sets = bundled.manifest()
    entry = sets[_known(uri, name, sets, "bundled set")]
    split = _known(uri, split or "train", entry["splits"], "split")
    sheet = entry["splits"][split]
    images, labels = bundled.read_sheet(bundled.FOLDER / f"{name}-{split}.png", sheet)
    terms = _terms(uri, options).over(Terms(entry["licence"]))
    # `read_sheet` has just compared this digest with the content, so the images are not hashed again.
    source = ArraySource(uri, images, labels, fingerprint=sheet["sha256"], **terms._asdict())
    source.classes = tuple(entry["classes"])
    return source


def _open_synthetic(uri: str, name: str, options: dict[str, str]) -> Source:
    _known(uri, name, (*synthetic.GENERATORS, *scenes.SCENES), "generated source")
    size = _whole(uri, "size", options.pop("size", "20000"))
    seed = _whole(uri, "seed", options.pop("seed", "0"))
    # Image numbers and seeds are 64-bit integers in the generators and in the permutation that draws subsets.
    if not (1 <= size <= 1 << 62 and seed < 1 << 63):
        raise ValueError(f"{uri}: expected a size from 1 to 2^62 and a seed below 2^63, got size={size} and seed={seed}.")
    if name in synthetic.GENERATORS:
        if "side" in options:
            raise ValueError(f"{uri}: {name} has images of one side; {', '.join(scenes.SCENES)} take side=.")
        return SyntheticSource(uri, synthetic.GENERATORS[name], size, seed, synthetic.CLASSES.get(name))
    side = _whole(uri, "side", options.pop("side", str(scenes.SIDE)))
    if not scenes.SMALLEST_SIDE <= side <= scenes.LARGEST_SIDE:
        raise ValueError(f"{uri}: expected a side of {scenes.SMALLEST_SIDE} to {scenes.LARGEST_SIDE} pixels, got {side}.")
    return SceneSource(uri, name, size, seed, side)


def _open_folder(uri: str, name: str, options: dict[str, str]) -> Source:
    labels = options.pop("labels", "none")
    _known(uri, labels, ("none", "folder"), "value of labels")
    how = {"stated_range": _range(uri, options), "max_pixels": _max_pixels(uri, options)}
    return FolderSource(uri, _path(uri, name), _terms(uri, options), labels=labels == "folder", **how)


def _open_list(uri: str, name: str, options: dict[str, str]) -> Source:
    labels = options.pop("labels", None)
    if labels is not None:
        _known(uri, labels, ("single", "multi"), "value of labels")
    how = {"stated_range": _range(uri, options), "max_pixels": _max_pixels(uri, options)}
    return ListSource(uri, _path(uri, name), _terms(uri, options), labels=labels, **how)


def _open_array_record(uri: str, name: str, options: dict[str, str]) -> Source:
    return ArrayRecordSource(uri, _path(uri, name), _terms(uri, options), _range(uri, options))


def _open_prepared(uri: str, name: str, options: dict[str, str]) -> Source:
    data_dir = options.pop("data_dir", None)
    return PreparedSource(uri, *parse_prepared(uri, name), data_dir, _terms(uri, options), _range(uri, options))


class _Scheme(NamedTuple):
    """A kind of source.

    Attributes:
      open: opens a source from its URI, path and options.
      options: names of the options.
      files: True if the path is the path of a file or folder, which may hold an '@' and whose last part is a name.
    """

    open: Callable[[str, str, dict[str, str]], Source]
    options: tuple[str, ...]
    files: bool = True


# Generated images take no such options: they are free, and have the licence CC0.
_TERMS = ("licence", "cost_per_image")
SCHEMES = {
    "arrayrecord": _Scheme(_open_array_record, ("range", *_TERMS, "keep")),
    "bundled": _Scheme(_open_bundled, (*_TERMS, "keep"), files=False),
    "csv": _Scheme(_open_list, ("labels", "range", "max_pixels", *_TERMS, "keep")),
    "folder": _Scheme(_open_folder, ("labels", "range", "max_pixels", *_TERMS, "keep")),
    "parquet": _Scheme(_open_list, ("labels", "range", "max_pixels", *_TERMS, "keep")),
    "synthetic": _Scheme(_open_synthetic, ("size", "seed", "side", "keep"), files=False),
    "tfds": _Scheme(_open_prepared, ("data_dir", "range", *_TERMS, "keep"), files=False),
}


def open_source(uri: str) -> Source:
    """Opens a source by name.

    - `folder:PATH`: every image below a folder; `?labels=folder` makes the first folder level the label.
    - `csv:FILE`, `parquet:FILE`: a list with a column `path`, relative to the list, and optional columns `label`, `group`,
      `licence` and `cost`. With `?labels=multi` an image may have several labels, as in `cat;dog`, or none (a Parquet column of
      lists needs no option). A missing label or group (an empty cell, NaN, None, `NA`, ...) and two columns with the same
      meaning are errors, which name the row or the columns. Images of one group (a video, an object, a patient) are not
      independent: tasks keep groups whole.
    - `arrayrecord:PATH`: a folder of ArrayRecord shards, as `tools.import_images` writes them, or one shard.
    - `tfds:NAME/SPLIT`: a dataset that TFDS prepared in ArrayRecord format; `?data_dir=PATH` if it is not in TFDS's own folder.
    - `bundled:NAME` or `bundled:NAME/SPLIT`: images that ship with the package (`fashion_mnist`, `mnist`).
    - `synthetic:NAME?size=N&seed=S`: N generated images: `dead_leaves`, `noise`, and log-spectrograms of labelled `events` and
      of the `hum` of machines, all grey and small; `fractals`, `shapes`, `textures` and `textured_leaves` in colour, which take
      `&side=64` pixels too.

    All images of more than 8 bits (16-bit PNG, floating-point TIFF) in a source share one pixel range, the values that become 0
    and 255. A folder or list derives the range from all of its files and reports it in `source.notes`: the smallest range of 8
    to 16 bits that holds all integers, and [0, 1] for floating-point values, which are refused if they are outside of it.
    `?range=LOW..HIGH` states another range. ArrayRecord files of other programs and `tfds:` need this option for such images.

    Images of more than 100 million pixels, or 400 million in a JPEG file, are refused; `?max_pixels=N` of a folder or list
    states another limit.

    Every URI except `synthetic:` takes `?licence=TEXT&cost_per_image=NUMBER`. Every URI takes `?keep=FILE`, a selection of its
    images that `tools.find_duplicates` wrote. `sslshift.data.sources.uri` describes the grammar: for instance, `%3F` is a
    question mark in a path.

    Example:
      >>> source = open_source("synthetic:noise?size=1000&seed=3")
      >>> len(source), source[0]["image"].shape, source.licence
      (1000, (28, 28, 1), 'CC0-1.0 (generated)')

    Raises:
      ValueError: the scheme, the name or an option is unknown, or the source has no image.
    """
    name = spelled(uri)
    scheme, colon, _ = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme.strip().lower(), SCHEMES, 1) if colon else []
        meant = f" Did you mean {near[0]}:?" if near else ""
        raise ValueError(f"Expected a source that begins with {', '.join(s + ':' for s in SCHEMES)}, got {name!r}.{meant}")
    parsed = parse_uri(uri)
    require_options(parsed, SCHEMES[scheme].options, name)
    options = dict(parsed.options)
    keep = options.pop("keep", "")
    source = SCHEMES[scheme].open(name, parsed.path, options)
    return _kept(source, Path(os.path.expanduser(keep))) if keep else source


def _kept(source: Source, file: Path) -> Source:
    return PartialSource(source, load_kept(file, source))


def _path(uri: str, path: str) -> Path:
    if not path:
        raise ValueError(f"{uri}: expected a path after the colon, as in folder:/data/parts.")
    _require_one_reading(uri, path)
    return Path(os.path.expanduser(path))


def _require_one_reading(uri: str, path: str) -> None:
    """Raises ValueError if the path as typed, with '?' and '%' taken literally, exists and might be meant instead."""
    # A URI in its canonical spelling whose path exists has only one meaning.
    if os.path.exists(os.path.expanduser(path)) and uri == str(parse_uri(uri)):
        return
    scheme, _, typed = uri.partition(":")
    # The user may have typed a path with a question mark or a percent sign without encoding it.
    for literal in (typed, typed.partition("?")[0]):
        if literal != path and os.path.lexists(os.path.expanduser(literal)):
            also = f", and {Uri(scheme, path)} for {path}" if os.path.exists(os.path.expanduser(path)) else ""
            raise ValueError(
                f"{uri} names the path {printable(path)}, but the path {literal} exists; write {Uri(scheme, literal)} "
                f"for {literal}{also}."
            )


def _known(uri: str, name: str, names: Sequence[str] | dict, what: str) -> str:
    if name not in names:
        raise ValueError(f"{uri}: expected one of {', '.join(names)} as the {what}, got {name!r}.")
    return name


def _whole(uri: str, key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9][0-9_]*", text):
        raise ValueError(f"{uri}: expected a whole number for {key}, got {text!r}.")
    return int(text)


def _range(uri: str, options: dict[str, str]) -> PixelRange | None:
    return parse_range(options.pop("range"), f"{uri}: range") if "range" in options else None


def _max_pixels(uri: str, options: dict[str, str]) -> int | None:
    if "max_pixels" not in options:
        return None
    most = _whole(uri, "max_pixels", options.pop("max_pixels"))
    if not most:
        raise ValueError(f"{uri}: expected at least 1 for max_pixels, got 0.")
    return most


def _terms(uri: str, options: dict[str, str]) -> Terms:
    """Removes licence and cost per image from a URI's options, and returns them."""
    licence = options.pop("licence", None)
    text = options.pop("cost_per_image", None)
    if text is None:
        return Terms(licence)
    try:
        cost = float(text)
    except ValueError:
        cost = -1.0
    # Written so that NaN fails too.
    if not 0 <= cost < float("inf"):
        raise ValueError(f"{uri}: expected a number of at least 0 for cost_per_image, got {text!r}.")
    return Terms(licence, cost)
