"""Sources that need no files: arrays in memory, generated images, and a cache in memory around another source."""

import functools
import hashlib
from collections.abc import Callable

import numpy as np

from sslshift.data import scenes, synthetic
from sslshift.data.decode import Canvas, fit
from sslshift.data.sources.base import Source, StoredIdentities


class ArraySource(Source):
    """Images in memory, with or without labels.

    Args:
      name: the name in tables.
      images: uint8 `[n, height, width, 1 or 3]`.
      labels: whole numbers `[n]`; 0/1 `[n, classes]` if an image may have several labels (multi-label); or None.
      groups: group of each image, `[n]`, see `Source.groups`; or None.
      **about: licence, cost_per_image, and the fingerprint if it is already known.

    Raises:
      ValueError: the arrays have another type or shape.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        labels: np.ndarray | None = None,
        *,
        groups: np.ndarray | None = None,
        **about,
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
            raise ValueError(f"{name}: expected uint8 images [n, height, width, 1 or 3], got {images.dtype} {images.shape}.")
        # hashlib takes contiguous memory only, and a slice of an array is not contiguous.
        digest = about.pop("fingerprint", None) or hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
        super().__init__(name, fingerprint=digest, **about)
        self._images = images
        self.labels = None if labels is None else _checked_labels(np.asarray(labels), len(images), name)
        if groups is not None and np.shape(groups) != (len(images),):
            raise ValueError(f"{name}: expected groups [{len(images)}], one for each image, got {list(np.shape(groups))}.")
        self.groups = None if groups is None else np.asarray(groups).astype(str)

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return fit(self._images[index], canvas) if canvas else self._images[index]

    def content_key(self) -> str | None:
        # The fingerprint hashes the pixels, but not the shape of the array.
        return f"{self.fingerprint} {self._images.shape}"

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        # No Python loop is needed here, which makes small sources fast.
        if self._images.shape[1:] == canvas:
            return self._images[indices]
        return super().read(indices, canvas)


def _checked_labels(labels: np.ndarray, size: int, name: str) -> np.ndarray:
    if labels.shape[:1] != (size,) or labels.ndim > 2 or 0 in labels.shape[1:]:
        raise ValueError(f"{name}: expected labels [{size}], or [{size}, classes] if multi-label, got {list(labels.shape)}.")
    if labels.ndim == 1:
        if labels.dtype.kind not in "biuf" or not np.array_equal(labels, np.round(labels)) or not np.isfinite(labels).all():
            raise ValueError(
                f"{name}: expected a whole number as the label of each image, got fractions, text or missing values."
            )
        return labels.astype(np.int64)
    wrong = ~np.isin(labels, (0, 1))
    if wrong.any():
        image, column = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"{name}: expected multi-label labels of 0 or 1, got {labels[image, column]} for image {image:,}, column {column}."
        )
    return labels.astype(np.uint8)


class SyntheticSource(Source):
    """Any number of generated images. Image i is a pure function of (seed, i); its class is i modulo the number of classes."""

    def __init__(
        self,
        name: str,
        make: Callable[[int, int], np.ndarray],
        size: int,
        seed: int,
        classes: tuple[str, ...] | None = None,
    ):
        # The version of the generators is part of the fingerprint: a change of their code makes another source.
        super().__init__(name, licence="CC0-1.0 (generated)", fingerprint=f"{name}, generator {synthetic.VERSION}")
        self.generator = f"{make.__module__}.{make.__qualname__}, seed {seed}"
        self._make = make
        self._size = size
        self._seed = seed
        self.classes = classes

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        return np.arange(self._size) % len(self.classes) if self.classes else None

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        image = self._make(self._seed, index)
        return fit(image, canvas) if canvas else image


class SceneSource(Source):
    """Any number of generated images in colour. Image i is a pure function of (seed, i, side)."""

    def __init__(self, name: str, scene: str, size: int, seed: int, side: int):
        about = f"{name}, side {side}, scenes {scenes.VERSION}"
        super().__init__(name, licence="CC0-1.0 (generated)", fingerprint=about)
        # Without the side: two sides show the same scenes.
        self.generator = f"scenes.{scene}, seed {seed}"
        self._scene = scene
        self._size = size
        self._seed = seed
        self._side = side
        self.classes = scenes.CLASSES.get(scene)

    def __len__(self) -> int:
        return self._size

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        return np.arange(self._size) % len(self.classes) if self.classes else None

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        image = synthetic.scene(self._scene, self._seed, index, self._side)
        return fit(image, canvas) if canvas else image


class CachedSource(Source):
    """A source that keeps its images in memory, on one canvas, after the first time they are read."""

    def __init__(self, source: Source, canvas: Canvas):
        about = {"licence": source.licence, "cost_per_image": source.cost_per_image, "fingerprint": source.fingerprint}
        super().__init__(source.name, **about)
        self.classes = source.classes
        self.refused = source.refused
        self.pixel_range = source.pixel_range
        self.notes = source.notes
        self.generator = source.generator
        self._source = source
        self._canvas = canvas
        self._allocate()

    def _allocate(self) -> None:
        self._images = np.empty((len(self._source), *self._canvas), np.uint8)
        self._have = np.zeros(len(self._source), bool)

    def __getstate__(self) -> dict:
        # Each worker process fills its own cache: sending the images would take longer than reading them.
        return {name: value for name, value in vars(self).items() if name not in ("_images", "_have")}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state)
        self._allocate()

    def __len__(self) -> int:
        return len(self._source)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        return self._source.labels

    @functools.cached_property
    def groups(self) -> np.ndarray | None:
        return self._source.groups

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        return self._source.image(index, canvas)

    def read(self, indices: np.ndarray, canvas: Canvas) -> np.ndarray:
        if canvas != self._canvas:
            return self._source.read(indices, canvas)
        # An index may occur several times in a batch, and is read once.
        missing = np.unique(indices[~self._have[indices]])
        if missing.size:
            self._images[missing] = self._source.read(missing, canvas)
            self._have[missing] = True
        return self._images[indices]

    def origin(self, index: int) -> str:
        return self._source.origin(index)

    def stored_identities(self) -> StoredIdentities | None:
        return self._source.stored_identities()

    def content_key(self) -> str | None:
        return self._source.content_key()


def cached(source: Source, canvas: Canvas, limit: int = 1 << 29) -> Source:
    """Returns the source with a cache in memory, or the source itself if it needs no cache or more than `limit` bytes."""
    # Arrays on the right canvas are in memory already.
    in_memory = isinstance(source, ArraySource) and source.image(0).shape == canvas
    if in_memory or len(source) * int(np.prod(canvas)) > limit:
        return source
    return CachedSource(source, canvas)
