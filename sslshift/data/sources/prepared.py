"""Sources of datasets that TensorFlow Datasets (TFDS) prepared; they are read without TensorFlow."""

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas, UnknownRangeError, decode, decode_onto, fit
from sslshift.data.ranges import PixelRange, describe_unread, with_range
from sslshift.data.sources.base import Source, Terms, written_at
from sslshift.data.sources.labels import indicators


class PreparedSource(Source):
    """A split of a dataset that is already prepared in ArrayRecord format; nothing is downloaded.

    Args:
      name: the URI.
      dataset: TFDS's name, optionally with `/CONFIG` and `:VERSION`.
      split: TFDS's name of the split, or a slice such as `train[:10%]`.
      data_dir: folder of the datasets; None: TFDS's own folder.
      terms: licence and cost per image that the URI states.
      stated_range: the pixel range of images of more than 8 bits; None: such images are refused when they are read.

    Raises:
      ValueError: the dataset or the split does not exist, is not prepared, or has no images.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        split: str,
        data_dir: str | None,
        terms: Terms,
        stated_range: PixelRange | None = None,
    ):
        self._arguments = (name, dataset, split, data_dir, terms, stated_range)
        # Imported here: it takes half a second, which other sources need not spend.
        import tensorflow_datasets as tfds

        base = re.split(r"[/:]", dataset)[0]
        known = tfds.list_builders(with_community_datasets=False)
        # TFDS would search the network for a name that is neither known nor prepared.
        if base not in known and not Path(data_dir or tfds.core.constants.DATA_DIR, base).is_dir():
            near = " or ".join(difflib.get_close_matches(base, known, 3))
            raise ValueError(f"{name}: TFDS has no dataset {base!r}" + (f"; did you mean {near}?" if near else "."))
        try:
            builder = tfds.builder(dataset, data_dir=data_dir)
            data = builder.as_data_source(split)
        except Exception as error:  # TFDS raises errors of many types.
            where = f" in {data_dir}" if data_dir else ""
            raise ValueError(
                f"{name}: split {split!r} of {dataset} cannot be read{where} ({_first_line(error)}); prepare it with "
                f'tfds.builder({dataset!r}).download_and_prepare(file_format="array_record"), which needs TensorFlow.'
            ) from error
        features = builder.info.features
        if "image" not in features:
            raise ValueError(f"{name}: {dataset} has no feature 'image'; it has {', '.join(features)}.")
        # The encoded image is read, and decoded as the images of every other source are.
        data.decoders = {"image": tfds.decode.SkipDecoding()}
        self._data = data
        self._files = _files(builder.info, split)
        licence = getattr(builder.info.redistribution_info, "license", "")
        if licence:
            terms = terms.over(Terms(" ".join(licence.split())))
        fingerprint = with_range(_fingerprint(builder.info, split, len(data)), stated_range)
        super().__init__(name, fingerprint=fingerprint, **terms._asdict())
        self.pixel_range = stated_range
        self.notes = describe_unread(stated_range)
        label = label_feature(dict(features.items()))
        self._label = label.name
        self._multi_label = label.multi_label
        self.classes = label.classes

    def __reduce__(self) -> tuple:
        # A worker process opens the dataset again, since not all of TFDS's builders can be pickled.
        return PreparedSource, self._arguments

    def __len__(self) -> int:
        return len(self._data)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        if self._label is None:
            return None
        found = [self._data[index][self._label] for index in range(len(self))]
        if not self._multi_label and all(int(label) == -1 for label in found):
            # TFDS writes -1 as every label of a split without labels.
            return None
        found = found if self._multi_label else [[label] for label in found]
        images = np.repeat(np.arange(len(self)), [len(labels) for labels in found])
        labels = np.array([label for labels in found for label in labels], np.int64)
        unknown = np.flatnonzero((labels < 0) | (labels >= len(self.classes)))
        if unknown.size:
            first = int(images[unknown[0]])
            label = int(labels[unknown[0]])
            raise ValueError(
                f"{self.origin(first)}: expected a label below the {len(self.classes)} classes, got {label}; TFDS writes -1 "
                "for an unknown label. Use another split."
            )
        return indicators(images, labels, (len(self), len(self.classes))) if self._multi_label else labels

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        try:
            image = self._data[index]["image"]
            # TFDS stores some images as arrays rather than encoded files.
            if isinstance(image, np.ndarray):
                if image.dtype != np.uint8:
                    raise BrokenImageError(
                        f"expected an array of uint8, got {image.dtype}; only encoded images may have more bits"
                    )
                return fit(image, canvas) if canvas else image
            return decode_onto(canvas, image, self.pixel_range) if canvas else decode(image, self.pixel_range)
        except UnknownRangeError as error:
            raise BrokenImageError(f"{self.origin(index)}: {error}; state it with ?range=LOW..HIGH") from error
        except Exception as error:  # TFDS raises errors of many types.
            raise BrokenImageError(f"{self.origin(index)}: {_first_line(error)}") from error

    def content_key(self) -> str | None:
        # TFDS records the sizes of the shards only; a dataset that was prepared again may hold other images.
        local = bool(self._files) and all(file.exists() for file in self._files)
        return f"{self.fingerprint} {written_at(self._files)}" if local else None


class LabelFeature(NamedTuple):
    """The feature of a dataset that holds labels: its name, whether an image may have several labels, and the class names."""

    name: str | None
    multi_label: bool = False
    classes: tuple[str, ...] | None = None


def label_feature(features: Mapping) -> LabelFeature:
    """Returns the feature that holds labels; its name is None if there is none."""
    # TFDS has no flag for the feature with labels; these are the names in its own datasets.
    for name in ("label", "labels"):
        feature = features.get(name)
        # A sequence also has the attributes of its elements, among them `names`.
        inner = getattr(feature, "feature", None)
        multi_label = inner is not None
        nested = hasattr(inner, "feature")
        if hasattr(feature, "names") and not nested and (multi_label or name == "label"):
            return LabelFeature(name, multi_label, tuple(feature.names))
    return LabelFeature(None)


def parse_prepared(uri: str, name: str) -> tuple[str, str]:
    """Returns the dataset and the split of `NAME/SPLIT`.

    Raises:
      ValueError: the text has another form.
    """
    match = re.fullmatch(r"(?P<dataset>[\w./-]+?(:[\d.*]+)?)/(?P<split>[\w-]+(\[[^\]]*\])?)", name)
    if not match:
        raise ValueError(f"Expected tfds:NAME/SPLIT, as in tfds:cifar10/train, got {uri}.")
    return match["dataset"], match["split"]


def _fingerprint(info, split: str, size: int) -> str:
    """Returns a digest of the name, the version, and the sizes of shards that TFDS recorded when it prepared them."""
    # A slice such as train[:10%] changes when the shards of its whole split do.
    base = info.splits.get(split.partition("[")[0]) if info.splits else None
    shards = f"{base.num_bytes}, {base.shard_lengths}" if base else ""
    return hashlib.sha256(f"{info.full_name}/{split}: {size}, {shards}".encode()).hexdigest()


def _files(info, split: str) -> list[Path]:
    base = info.splits.get(split.partition("[")[0]) if info.splits else None
    return [Path(os.fspath(path)) for path in base.filepaths] if base else []


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
