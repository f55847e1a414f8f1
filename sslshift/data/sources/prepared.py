"""Sources that TensorFlow Datasets prepared, read without TensorFlow."""

import difflib
import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sslshift.data.broken import UnknownRangeError
from sslshift.data.decode import BrokenImageError, Canvas, decode, decode_onto, fit
from sslshift.data.ranges import PixelRange, describe_unread, with_range
from sslshift.data.sources.base import Source
from sslshift.data.sources.labels import indicators


class PreparedSource(Source):
    """A split of a dataset that lies prepared in ArrayRecord format; nothing is downloaded.

    Args:
      name: the URI.
      dataset: TFDS's name, with `/CONFIG` and `:VERSION` if wanted.
      split: TFDS's name of the split; a slice such as `train[:10%]` is one.
      data_dir: where datasets lie; None: TFDS's own place.
      about: licence and cost_per_image where the URI gave them.
      stated_range: the pixel range of images of more than 8 bits; None: they are refused when they are read.

    Raises:
      ValueError: no such dataset or split, it is not prepared, or has no image.
    """

    def __init__(
        self,
        name: str,
        dataset: str,
        split: str,
        data_dir: str | None,
        about: Mapping,
        stated_range: PixelRange | None = None,
    ):
        self._arguments = (name, dataset, split, data_dir, about, stated_range)
        # Half a second that the other sources need not wait for.
        import tensorflow_datasets as tfds

        base = re.split(r"[/:]", dataset)[0]
        known = tfds.list_builders(with_community_datasets=False)
        # A name that is neither known nor prepared would be looked for on the network.
        if base not in known and not Path(data_dir or tfds.core.constants.DATA_DIR, base).is_dir():
            near = " or ".join(difflib.get_close_matches(base, known, 3))
            raise ValueError(f"{name}: TFDS knows no dataset {base!r}" + (f"; did you mean {near}?" if near else "."))
        try:
            builder = tfds.builder(dataset, data_dir=data_dir)
            data = builder.as_data_source(split)
        except Exception as error:  # TFDS's own errors are of many kinds.
            where = f" in {data_dir}" if data_dir else ""
            raise ValueError(
                f"{name}: split {split!r} of {dataset} cannot be read{where} ({_first_line(error)}); prepare it with "
                f'tfds.builder({dataset!r}).download_and_prepare(file_format="array_record"), which needs TensorFlow.'
            ) from error
        features = builder.info.features
        if "image" not in features:
            raise ValueError(f"{name}: {dataset} has no feature 'image'; it has {', '.join(features)}.")
        # The encoded image: it is decoded as every other source's is.
        data.decoders = {"image": tfds.decode.SkipDecoding()}
        self._data = data
        licence = getattr(builder.info.redistribution_info, "license", "")
        about = {"licence": " ".join(licence.split())} | about if licence else about
        fingerprint = with_range(_fingerprint(builder.info, split, len(data)), stated_range)
        super().__init__(name, fingerprint=fingerprint, **about)
        self.pixel_range = stated_range
        self.notes = describe_unread(stated_range)
        self._label, self._multi_label, self.classes = label_feature(dict(features.items()))

    def __reduce__(self) -> tuple:
        # A reading worker opens the dataset anew: TFDS's builders do not all travel.
        return PreparedSource, self._arguments

    def __len__(self) -> int:
        return len(self._data)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        if self._label is None:
            return None
        found = [self._data[index][self._label] for index in range(len(self))]
        if not self._multi_label and all(int(label) == -1 for label in found):
            # So TFDS writes a split without labels.
            return None
        found = found if self._multi_label else [[label] for label in found]
        images = np.repeat(np.arange(len(self)), [len(labels) for labels in found])
        labels = np.array([label for labels in found for label in labels], np.int64)
        unknown = np.flatnonzero((labels < 0) | (labels >= len(self.classes)))
        if unknown.size:
            first = int(images[unknown[0]])
            label = int(labels[unknown[0]])
            raise ValueError(
                f"{self.origin(first)} has the label {label}, which is none of the {len(self.classes)} classes; TFDS writes -1 "
                "where a label is not known. Use another split."
            )
        return indicators(images, labels, (len(self), len(self.classes))) if self._multi_label else labels

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        try:
            image = self._data[index]["image"]
            # Features that TFDS does not store encoded come as arrays.
            if isinstance(image, np.ndarray):
                if image.dtype != np.uint8:
                    raise BrokenImageError(f"its values are {image.dtype}, which only images in files may be")
                return fit(image, canvas) if canvas else image
            return decode_onto(canvas, image, self.pixel_range) if canvas else decode(image, self.pixel_range)
        except UnknownRangeError as error:
            raise BrokenImageError(f"{self.origin(index)}: {error}; state it with ?range=LOW..HIGH") from error
        except Exception as error:  # TFDS's own errors are of many kinds.
            raise BrokenImageError(f"{self.origin(index)}: {_first_line(error)}") from error


def label_feature(features: Mapping) -> tuple[str | None, bool, tuple[str, ...] | None]:
    """The feature that holds labels, whether there are several of them to an image, and the names of the classes."""
    for name in ("label", "labels"):
        feature = features.get(name)
        # A sequence has the attributes of what it is a sequence of, too.
        inner = getattr(feature, "feature", None)
        multi_label = inner is not None
        nested = hasattr(inner, "feature")
        if hasattr(feature, "names") and not nested and (multi_label or name == "label"):
            return name, multi_label, tuple(feature.names)
    return None, False, None


def parse_prepared(uri: str, name: str) -> tuple[str, str]:
    """Dataset and split of `NAME/SPLIT`.

    Raises:
      ValueError: it is written otherwise.
    """
    match = re.fullmatch(r"(?P<dataset>[\w./-]+?(:[\d.*]+)?)/(?P<split>[\w-]+(\[[^\]]*\])?)", name)
    if not match:
        raise ValueError(f"{uri}: a prepared dataset is written tfds:NAME/SPLIT, as in tfds:cifar10/train.")
    return match["dataset"], match["split"]


def _fingerprint(info, split: str, size: int) -> str:
    """Of name, version and what TFDS recorded of the shards when it prepared them."""
    base = info.splits.get(split.partition("[")[0]) if info.splits else None
    shards = f"{base.num_bytes}, {base.shard_lengths}" if base else ""
    return hashlib.sha256(f"{info.full_name}/{split}: {size}, {shards}".encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
