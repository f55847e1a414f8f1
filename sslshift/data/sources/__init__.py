"""Sources: random-access collections of images behind one function, `open_source(uri)`."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl

from sslshift.data import bundled, synthetic
from sslshift.data.sources.array_record import ArrayRecordSource
from sslshift.data.sources.base import PartialSource, Source, digests, readable
from sslshift.data.sources.files import FolderSource, ListSource
from sslshift.data.sources.memory import ArraySource, CachedSource, SyntheticSource, cached
from sslshift.data.sources.prepared import PreparedSource, parse_prepared

__all__ = [
    "ArraySource",
    "CachedSource",
    "PartialSource",
    "Source",
    "SyntheticSource",
    "cached",
    "digests",
    "open_source",
    "readable",
]


def _open_bundled(uri: str, name: str, options: dict[str, str]) -> Source:
    name, _, split = name.partition("/")
    sets = bundled.manifest()
    entry = sets[_known(uri, name, sets, "bundled set")]
    split = _known(uri, split or "train", entry["splits"], "split")
    sheet = entry["splits"][split]
    images, labels = bundled.read_sheet(bundled.FOLDER / f"{name}-{split}.png", sheet)
    about = {"licence": entry["licence"]} | _about(uri, options)
    return ArraySource(uri, images, labels, fingerprint=sheet["sha256"], **about)


def _open_synthetic(uri: str, name: str, options: dict[str, str]) -> Source:
    make = synthetic.GENERATORS[_known(uri, name, synthetic.GENERATORS, "generated source")]
    size, seed = (_whole(uri, key, options.pop(key, default)) for key, default in (("size", "20000"), ("seed", "0")))
    if not (1 <= size <= 1 << 62 and seed < 1 << 63):
        raise ValueError(f"{uri}: size must be at least 1, and size and seed at most 2^62.")
    return SyntheticSource(uri, make, size, seed, synthetic.CLASSES.get(name))


def _open_folder(uri: str, name: str, options: dict[str, str]) -> Source:
    labels = options.pop("labels", "none")
    _known(uri, labels, ("none", "folder"), "value of labels")
    return FolderSource(uri, _path(uri, name), labels=labels == "folder", **_about(uri, options))


def _open_list(uri: str, name: str, options: dict[str, str]) -> Source:
    labels = options.pop("labels", None)
    if labels is not None:
        _known(uri, labels, ("single", "multi"), "value of labels")
    return ListSource(uri, _path(uri, name), labels=labels, **_about(uri, options))


def _open_array_record(uri: str, name: str, options: dict[str, str]) -> Source:
    return ArrayRecordSource(uri, _path(uri, name), _about(uri, options))


def _open_prepared(uri: str, name: str, options: dict[str, str]) -> Source:
    data_dir = options.pop("data_dir", None)
    return PreparedSource(uri, *parse_prepared(uri, name), data_dir, _about(uri, options))


SCHEMES = {
    "arrayrecord": _open_array_record,
    "bundled": _open_bundled,
    "csv": _open_list,
    "folder": _open_folder,
    "parquet": _open_list,
    "synthetic": _open_synthetic,
    "tfds": _open_prepared,
}


def open_source(uri: str) -> Source:
    """Opens a source by name.

    - `folder:PATH`: every image below a folder; `?labels=folder` makes the first folder level the label.
    - `csv:FILE`, `parquet:FILE`: a list with a column `path`, relative to the list, and perhaps `label`, `licence`, `cost`;
      `?labels=multi`: an image may have several labels, as in `cat;dog`, or none (a Parquet column of lists needs no option).
    - `arrayrecord:PATH`: a folder of ArrayRecord shards (`tools.import_images` writes them), or one.
    - `tfds:NAME/SPLIT`: what TFDS prepared in ArrayRecord format, `?data_dir=PATH` if not at its own place.
    - `bundled:NAME` or `bundled:NAME/SPLIT`: images that ship with the package (`fashion_mnist`, `mnist`).
    - `synthetic:NAME?size=N&seed=S`: generated images: `dead_leaves`, `noise`, and log-spectrograms of labelled
      `events` and of machines' `hum`.

    Every URI but a generated one takes `?licence=TEXT&cost_per_image=NUMBER`; every one takes `?keep=FILE`, a choice of its
    images that `tools.find_duplicates` wrote.

    Example:
      >>> source = open_source("synthetic:noise?size=1000&seed=3")
      >>> len(source), source[0]["image"].shape, source.licence
      (1000, (28, 28, 1), 'CC0-1.0 (generated)')

    Raises:
      ValueError: the scheme, the name or an option is unknown, or there is no image.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        raise ValueError(f"Unknown source {uri!r}: it must begin with {', '.join(s + ':' for s in SCHEMES)}.")
    name, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    keep = options.pop("keep", "")
    source = SCHEMES[scheme](uri, name, options)
    if options:
        raise ValueError(f"{uri}: unknown option {', '.join(options)}.")
    return _kept(source, Path(keep).expanduser()) if keep else source


def _kept(source: Source, file: Path) -> Source:
    # Curation reads sources; only this one option reads what curation wrote.
    from sslshift.data.curation import load_kept

    return PartialSource(source, load_kept(file, source))


def _path(uri: str, name: str) -> Path:
    if not name:
        raise ValueError(f"{uri}: a path is missing, as in folder:/data/parts.")
    return Path(name).expanduser()


def _known(uri: str, name: str, names: Sequence[str] | dict, what: str) -> str:
    if name not in names:
        raise ValueError(f"{uri}: no {what} is called {name!r}; there is {', '.join(names)}.")
    return name


def _whole(uri: str, key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9][0-9_]*", text):
        raise ValueError(f"{uri}: {key} must be a whole number, not {text!r}.")
    return int(text)


def _about(uri: str, options: dict[str, str]) -> dict:
    """Licence and cost per image out of a URI's options, where given."""
    about: dict = {"licence": options.pop("licence")} if "licence" in options else {}
    if "cost_per_image" in options:
        text = options.pop("cost_per_image")
        try:
            about["cost_per_image"] = float(text)
        except ValueError:
            about["cost_per_image"] = -1.0
        if not 0 <= about["cost_per_image"] < float("inf"):
            raise ValueError(f"{uri}: cost_per_image must be a number of at least 0, not {text!r}.")
    return about
