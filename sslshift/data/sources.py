"""Sources: random-access collections of images behind one function, `open_source(uri)`."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image
from rich.progress import track

from sslshift.data import bundled, synthetic
from sslshift.data.decode import BrokenImageError, Canvas, decode, fit


class Source:
    """A named, random-access collection of images.

    `source[i]` is a dict with `image` (uint8 `[height, width, channels]`) and, where labels exist, `label` (int).

    Attributes:
      name: the URI that opens it.
      licence: licence of the images, or "unknown".
      cost_per_image: what one more image costs, in any currency; 0 where nothing was said.
      labels: int64 `[len]`, or None.
      classes: names of the labels, or None.
      fingerprint: changes when the content does; it goes into the record of every run.
      refused: (path, reason) of files that looked like images and are not counted in `len`.
    """

    def __init__(self, name: str, *, licence: str = "unknown", cost_per_image: float = 0.0, fingerprint: str):
        self.name, self.licence, self.cost_per_image, self.fingerprint = name, licence, cost_per_image, fingerprint
        self.labels: np.ndarray | None = None
        self.classes: tuple[str, ...] | None = None
        self.refused: list[tuple[str, str]] = []

    def __len__(self) -> int:
        raise NotImplementedError

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        """One image as stored; with a canvas it may come smaller than stored, if not smaller than the canvas."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]
        sample = {"image": self.image(index)}
        return sample if self.labels is None else sample | {"label": int(self.labels[index])}

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        """Many images on one canvas: uint8 `[n, height, width, channels]`."""
        return np.stack([fit(self.image(int(index), canvas), canvas) for index in indices])


class ArraySource(Source):
    """Images that are in memory: uint8 `[n, height, width, channels]`, labels `[n]` if there are any."""

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray | None = None, **about):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"{name}: images must be uint8 [n, height, width, 1 or 3], not {images.dtype} {images.shape}.")
        digest = about.pop("fingerprint", None) or hashlib.sha256(images.tobytes()).hexdigest()
        super().__init__(name, fingerprint=digest, **about)
        self._images = images
        self.labels = None if labels is None else np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._images[index]

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        if self._images.shape[1:] == canvas:
            return self._images[indices]
        return super().read(indices, canvas)


class SyntheticSource(Source):
    """Generated images of any number; image i is a pure function of (seed, i)."""

    def __init__(self, name: str, make: Callable[[int, int], np.ndarray], size: int, seed: int):
        super().__init__(name, licence="CC0-1.0 (generated)", fingerprint=f"{name}, generator {synthetic.VERSION}")
        self._make, self._size, self._seed = make, size, seed

    def __len__(self) -> int:
        return self._size

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._make(self._seed, index)


class FolderSource(Source):
    """The image files below a folder, in the order of their paths.

    Every file is decoded once when the source is opened, so that N counts what can be seen: what cannot be decoded is
    listed in `refused`.
    """

    def __init__(self, name: str, folder: Path, *, labels: bool, **about):
        if not folder.is_dir():
            raise ValueError(f"{name}: there is no folder {folder}.")
        found = sorted(_image_files(folder))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(_check, found)
            hidden = len(found) < 500 or not sys.stderr.isatty()
            checks = list(track(checks, "checking the images of a folder", len(found), disable=hidden))
        whole = [(path, check.digest) for path, check in zip(found, checks, strict=True) if not check.reason]
        self._paths = [path for path, _ in whole]
        content = "".join(f"{_printable(path.relative_to(folder))}\0{digest}\n" for path, digest in whole)
        super().__init__(name, fingerprint=hashlib.sha256(content.encode()).hexdigest(), **about)
        self.refused = [(_printable(path), check.reason) for path, check in zip(found, checks, strict=True) if check.reason]
        if not self._paths:
            refused = f" ({len(found)} files were refused, the first: {self.refused[0]})" if found else ""
            raise ValueError(f"{name}: the folder {folder} holds no readable image{refused}.")
        if labels:
            self._label(folder)

    def _label(self, folder: Path) -> None:
        names = [path.relative_to(folder).parts[0] for path in self._paths]
        loose = next((path for path in self._paths if path.parent == folder), None)
        if loose:
            raise ValueError(
                f"{self.name}: labels=folder needs each image in a class folder, but {_printable(loose)} is in none."
            )
        classes, labels = np.unique(names, return_inverse=True)
        self.classes, self.labels = tuple(classes.tolist()), labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        path = self._paths[index]
        try:
            return decode(path.read_bytes(), draft=max(canvas[:2]) if canvas else None)
        except (OSError, BrokenImageError) as error:
            raise BrokenImageError(
                f"{_printable(path)} could be read when the source was opened and cannot be now: {error}"
            ) from error


def _image_files(folder: Path) -> Iterator[Path]:
    """Files with an image's extension; links to folders are followed, each folder once."""
    extensions, visited = set(Image.registered_extensions()), {os.path.realpath(folder)}
    for root, folders, files in os.walk(folder, followlinks=True):
        # A folder before links to it, so that its own name is the one that counts.
        folders.sort(key=lambda name, root=root: (os.path.islink(os.path.join(root, name)), name))
        for name in list(folders):
            real = os.path.realpath(os.path.join(root, name))
            if real in visited:
                folders.remove(name)
            visited.add(real)
        for file in files:
            if Path(file).suffix.lower() in extensions and not file.startswith("."):
                yield Path(root, file)


class _Check(NamedTuple):
    digest: str
    reason: str


def _check(path: Path) -> _Check:
    """A file's digest, and why it is no image if it is none. JPEGs are decoded at an eighth: truncation shows there as well."""
    try:
        content = path.read_bytes()
        decode(content, draft=1)
    except (OSError, BrokenImageError) as error:
        return _Check("", str(error))
    return _Check(hashlib.sha256(content).hexdigest(), "")


def _printable(path: Path) -> str:
    """A path as text that can be written anywhere, also where its name is not UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


class CachedSource(Source):
    """A source whose images are kept on one canvas in memory once they were read."""

    def __init__(self, source: Source, canvas: Canvas):
        super().__init__(source.name, fingerprint=source.fingerprint)
        self.__dict__.update({key: value for key, value in vars(source).items() if not key.startswith("_")})
        self._source, self._canvas = source, canvas
        self._allocate()

    def _allocate(self) -> None:
        self._images = np.empty((len(self._source), *self._canvas), np.uint8)
        self._have = np.zeros(len(self._source), bool)

    def __getstate__(self) -> dict:
        # A reading worker gets the source and fills a cache of its own: the images are not sent along.
        return {name: value for name, value in vars(self).items() if name not in ("_images", "_have")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._allocate()

    def __len__(self) -> int:
        return len(self._source)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._source.image(index, canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        if canvas != self._canvas:
            return self._source.read(indices, canvas)
        missing = np.unique(indices[~self._have[indices]])
        if missing.size:
            self._images[missing] = self._source.read(missing, canvas)
            self._have[missing] = True
        return self._images[indices]


class PartialSource(Source):
    """Some of the images of a source, in their order there."""

    def __init__(self, source: Source, indices: np.ndarray):
        super().__init__(source.name, fingerprint=f"{source.fingerprint}, {len(indices)} of {len(source)}")
        self.licence, self.cost_per_image, self.refused = source.licence, source.cost_per_image, source.refused
        self.classes = source.classes
        self.labels = None if source.labels is None else source.labels[indices]
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._source.image(int(self._indices[index]), canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        return self._source.read(self._indices[indices], canvas)


def digests(source: Source, indices: np.ndarray, canvas: Canvas) -> list[bytes]:
    """A digest of each image as it is seen on the canvas: equal images have equal ones, whatever their files are called."""
    result = []
    for start in range(0, len(indices), 1000):
        images = source.read(indices[start : start + 1000], canvas)
        result += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
    return result


def cached(source: Source, canvas: Canvas, limit: int = 1 << 29) -> Source:
    """The source, kept in memory as it is read if all of it fits into `limit` bytes on this canvas."""
    in_memory = isinstance(source, ArraySource) and source.image(0).shape == canvas
    if in_memory or len(source) * int(np.prod(canvas)) > limit:
        return source
    return CachedSource(source, canvas)


def _open_bundled(uri: str, name: str, options: dict[str, str]) -> Source:
    name, _, split = name.partition("/")
    sets = bundled.manifest()
    entry = sets[_known(uri, name, sets, "bundled set")]
    split = _known(uri, split or "train", entry["splits"], "split")
    sheet = entry["splits"][split]
    images, labels = bundled.read_sheet(bundled.FOLDER / f"{name}-{split}.png", sheet)
    return ArraySource(uri, images, labels, licence=entry["licence"], fingerprint=sheet["sha256"], **_about(uri, options))


def _open_synthetic(uri: str, name: str, options: dict[str, str]) -> Source:
    make = synthetic.GENERATORS[_known(uri, name, synthetic.GENERATORS, "generated source")]
    size, seed = (_whole(uri, key, options.pop(key, default)) for key, default in (("size", "20000"), ("seed", "0")))
    if not (1 <= size <= 1 << 62 and seed < 1 << 63):
        raise ValueError(f"{uri}: size must be at least 1, and size and seed at most 2^62.")
    return SyntheticSource(uri, make, size, seed)


def _open_folder(uri: str, name: str, options: dict[str, str]) -> Source:
    labels = options.pop("labels", "none")
    _known(uri, labels, ("none", "folder"), "value of labels")
    if not name:
        raise ValueError(f"{uri}: name a folder, as in folder:/data/parts.")
    return FolderSource(uri, Path(name).expanduser(), labels=labels == "folder", **_about(uri, options))


SCHEMES = {"bundled": _open_bundled, "folder": _open_folder, "synthetic": _open_synthetic}


def open_source(uri: str) -> Source:
    """Opens a source by name.

    - `bundled:NAME` or `bundled:NAME/SPLIT`: images that ship with the package (`fashion_mnist`, `mnist`).
    - `folder:PATH`: every image below a folder; `?labels=folder` makes the first folder level the label.
    - `synthetic:NAME?size=N&seed=S`: generated images (`dead_leaves`, `noise`).

    Every URI but a generated one takes `?licence=TEXT&cost_per_image=NUMBER`.

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
    source = SCHEMES[scheme](uri, name, options)
    if options:
        raise ValueError(f"{uri}: unknown option {', '.join(options)}.")
    return source


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
