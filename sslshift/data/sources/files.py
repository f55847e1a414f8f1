"""Sources that are image files: the files below a folder, or the files that a CSV or Parquet list names."""

import functools
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sslshift.data.decode import BrokenImageError, Canvas, check, decode, decode_onto, read_file
from sslshift.data.ranges import Levels, PixelRange, decide_range, describe_range, merge_levels
from sslshift.data.sources.base import Refused, Source, Terms, licence_text, printable
from sslshift.data.sources.labels import class_name, encode_labels, encode_multi_labels, gather_spellings, spelling_notes
from sslshift.data.sources.layout import require_no_splits, split_note
from sslshift.data.sources.lists import read_list
from sslshift.data.sources.recognise import is_other_archive, kind_of, recognise_folder
from sslshift.data.sources.refusals import examples
from sslshift.data.sources.uri import Uri
from sslshift.data.sources.walk import is_image, list_files
from sslshift.data.threads import watched


class FileSource(Source):
    """Image files.

    Every file is decoded once when the source is opened, so that N counts only images that a run can see. Files that cannot be
    decoded are listed in `refused`, and the pixel range of images of more than 8 bits is derived from all files. Collections
    for which this takes too long should be imported with `tools.import_images`.

    Args:
      name: the URI.
      root: folder of the source. The fingerprint holds paths relative to it, so that a copied folder keeps its fingerprint.
      paths: the files, in order.
      terms: licence and cost per image that the URI states.
      stated_range: the pixel range that the user stated, if any.
      max_pixels: largest number of pixels of an image, see `decode`.

    Raises:
      ValueError: none of the files is an image, or images of more than 8 bits need a stated range.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[Path],
        terms: Terms,
        stated_range: PixelRange | None = None,
        max_pixels: int | None = None,
    ):
        # Threads suffice: decoding releases the interpreter lock.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(functools.partial(_check, stated_range=stated_range, max_pixels=max_pixels), paths)
            # The check of few files ends before anybody could read a progress bar.
            long = len(paths) >= 500
            checks = list(watched(checks, f"checking the images of {name}", long=long, total=len(paths)))
        self._max_pixels = max_pixels
        # Positions among `paths` of the files that can be decoded.
        self._whole = np.flatnonzero([not check.reason for check in checks])
        self._paths = [paths[i] for i in self._whole]
        # The fingerprint hashes content and relative paths, not times or places: a copy of the folder is the same source.
        content = "".join(f"{printable(os.path.relpath(paths[i], root))}\0{checks[i].digest}\n" for i in self._whole)
        levels = merge_levels(check.levels for check in checks if check.levels)
        chosen = decide_range(levels, stated_range, name, "?range")
        # The same files read with another range are other images.
        content += f"range\0{chosen.text}\n" if chosen else ""
        super().__init__(name, fingerprint=hashlib.sha256(content.encode()).hexdigest(), **terms._asdict())
        self.pixel_range = chosen
        self.notes = describe_range(levels, chosen or stated_range, len(self._paths), "?range")
        refused = zip(paths, checks, strict=True)
        self.refused = [Refused(printable(path), check.reason) for path, check in refused if check.reason]
        if not self._paths:
            refused = f" ({len(paths)} files were refused: {examples(self.refused)})" if paths else ""
            raise ValueError(f"{name}: {root} holds no readable image{refused}.{'' if paths else recognise_folder(root)}")

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        path = self._paths[index]
        try:
            content = read_file(path)
            how = self.pixel_range, self._max_pixels
            return decode_onto(canvas, content, *how) if canvas else decode(content, *how)
        except BrokenImageError as error:
            raise BrokenImageError(
                f"{printable(path)} could be read when the source was opened, but cannot be read now: {error}"
            ) from error

    def origin(self, index: int) -> str:
        return printable(self._paths[index])

    def content_key(self) -> str | None:
        # The fingerprint hashes all bytes of all files, and the range with which they are read.
        return self.fingerprint


class FolderSource(FileSource):
    """The image files below a folder, in the order of their paths."""

    def __init__(
        self,
        name: str,
        folder: Path,
        terms: Terms,
        *,
        labels: bool,
        stated_range: PixelRange | None = None,
        max_pixels: int | None = None,
    ):
        if not folder.is_dir():
            is_file = " (it is a file)" if folder.exists() else ""
            raise ValueError(f"{name}: there is no folder {printable(folder)}{is_file}.")
        files = list_files(folder)
        images = [path for path in files.paths if is_image(path)]
        # Without this error, a folder that cannot be read would be reported as one without images.
        if files.unreadable and not images:
            path, reason = files.unreadable[0]
            raise ValueError(f"{name}: {printable(folder)} holds no image that can be reached: {path}: {reason}.")
        super().__init__(name, folder, images, terms, stated_range, max_pixels)
        # Links are reported, although their images are in the source under another name, since users count files.
        links = (Refused(printable(path), reason) for path, reason in files.links if is_image(path))
        self.refused = [*self.refused, *links, *files.unreadable]
        archives = [path for path in files.paths if kind_of(path.name) in ("tar", "zip") or is_other_archive(path.name)]
        if archives:
            self.notes = [
                *self.notes,
                f"archives in the folder ({len(archives):,}, e.g. {printable(archives[0].name)}) are not opened; "
                "python -m tools.import_images imports their images",
            ]
        if labels:
            self._label(folder)

    def _label(self, folder: Path) -> None:
        below = [path.relative_to(folder) for path in self._paths]
        loose = next((path for path in self._paths if path.parent == folder), None)
        if loose:
            raise ValueError(
                f"{self.name}: labels=folder expects each image in a class folder, but {printable(loose)} is not in one."
            )
        # Checked before labels are made: otherwise users would see a class called "train" only in the results.
        require_no_splits(below, self.name, str(Uri("folder", str(folder))))
        names = [printable(path.parts[0]) for path in below]
        self.classes, self.labels = encode_labels(list(map(class_name, names)))
        self.notes = [*self.notes, *spelling_notes(gather_spellings(names)), *split_note(self.classes)]


class ListSource(FileSource):
    """The image files that a list names, in its order.

    The list is a CSV file with a header, or a Parquet file. Its columns are those of `lists.read_list`; paths are relative to
    the list's folder.

    Args:
      name: the URI.
      file: the list.
      terms: licence and cost per image that the URI states, for images without their own in the list.
      labels: "multi", "single" or None, as `lists.read_list` takes it.
      stated_range: the pixel range that the user stated, if any.
      max_pixels: largest number of pixels of an image, see `decode`.

    Raises:
      ValueError: the file is not a list of images, a column holds unexpected values, or no image can be read.
    """

    def __init__(
        self,
        name: str,
        file: Path,
        terms: Terms,
        *,
        labels: str | None = None,
        stated_range: PixelRange | None = None,
        max_pixels: int | None = None,
    ):
        # The whole list is checked before the first image is decoded, which may take minutes.
        listed = read_list(file, name, labels)
        super().__init__(name, file.parent, [file.parent / path for path in listed.paths], terms, stated_range, max_pixels)
        # Only readable images contribute a licence, a cost and a label: a class must not exist without an image.
        whole = self._whole.tolist()
        licences = Counter(listed.licences[i] or self.licence for i in whole)
        self.licence = licence_text(licences, self.licence)
        costs = [listed.costs[i] for i in whole]
        if any(cost is not None for cost in costs):
            self.cost_per_image = float(np.mean([self.cost_per_image if cost is None else cost for cost in costs]))
        if listed.groups is not None:
            self.groups = np.array([listed.groups[i] for i in whole], str)
        if listed.labels is not None:
            encode = encode_multi_labels if listed.multi_label else encode_labels
            self.classes, self.labels = encode([listed.labels[i] for i in whole])
            self.notes = [*self.notes, *spelling_notes(listed.spellings)]
            # The list has labels, but the images with labels may all have been refused.
            if not self.classes:
                raise ValueError(f"{name}: no image that can be read has a label; remove the column.")


class _Check(NamedTuple):
    """The digest of a file, or the reason why the file cannot be decoded; `levels` if an image has more than 8 bits."""

    digest: str
    reason: str
    levels: Levels | None = None


def _check(path: Path, stated_range: PixelRange | None, max_pixels: int | None) -> _Check:
    """Returns a file's digest, or the reason why it cannot be used."""
    try:
        content = read_file(path)
        levels = check(content, stated_range, max_pixels)
    except BrokenImageError as error:
        return _Check("", str(error))
    return _Check(hashlib.sha256(content).hexdigest(), "", levels and levels.of(printable(path)))
