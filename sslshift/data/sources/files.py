"""Sources that are image files: those below a folder, or those that a CSV or Parquet list names."""

import functools
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.markup import escape
from rich.progress import track

from sslshift.data.decode import BrokenImageError, Canvas, check, decode, decode_onto, read_file
from sslshift.data.ranges import Levels, PixelRange, decide_range, describe_range, merge_levels
from sslshift.data.sources.base import Source, licence_text, printable
from sslshift.data.sources.labels import class_name, encode_labels, encode_multi_labels, gather_spellings, spelling_notes
from sslshift.data.sources.layout import require_no_splits, split_note
from sslshift.data.sources.lists import read_list
from sslshift.data.sources.recognise import is_other_archive, kind_of, recognise_folder
from sslshift.data.sources.uri import Uri
from sslshift.data.sources.walk import is_image, list_files


class FileSource(Source):
    """Image files.

    Every file is decoded once when the source is opened, so that N counts what can be seen: what cannot be decoded is
    listed in `refused`, and the pixel range of images of more than 8 bits is decided from all of them. A collection for which
    that takes too long is one for `tools.import_images`.

    Args:
      name: the URI.
      root: the folder that paths are told relative to.
      paths: the files, in order.
      about: licence and cost_per_image.
      stated_range: the pixel range that the user gave, if any.

    Raises:
      ValueError: none of the files is an image, or those of more than 8 bits need a stated range.
    """

    def __init__(self, name: str, root: Path, paths: Sequence[Path], about: Mapping, stated_range: PixelRange | None = None):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            checks = pool.map(functools.partial(_check, stated_range=stated_range), paths)
            hidden = len(paths) < 500 or not sys.stderr.isatty()
            checks = list(track(checks, f"checking the images of {escape(name)}", len(paths), disable=hidden))
        # Positions among `paths` of the files that count.
        self._whole = np.flatnonzero([not check.reason for check in checks])
        self._paths = [paths[i] for i in self._whole]
        content = "".join(f"{printable(os.path.relpath(paths[i], root))}\0{checks[i].digest}\n" for i in self._whole)
        levels = merge_levels(check.levels for check in checks if check.levels)
        chosen = decide_range(levels, stated_range, name, "?range")
        content += f"range\0{chosen.text}\n" if chosen else ""
        super().__init__(name, fingerprint=hashlib.sha256(content.encode()).hexdigest(), **about)
        self.pixel_range = chosen
        self.notes = describe_range(levels, chosen or stated_range, len(self._paths), "?range")
        self.refused = [(printable(path), check.reason) for path, check in zip(paths, checks, strict=True) if check.reason]
        if not self._paths:
            refused = f" ({len(paths)} files were refused, the first: {': '.join(map(str, self.refused[0]))})" if paths else ""
            raise ValueError(f"{name}: {root} holds no readable image{refused}.{'' if paths else recognise_folder(root)}")

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, index: int, canvas: Canvas | None = None) -> np.ndarray:
        path = self._paths[index]
        try:
            content = read_file(path)
            return decode_onto(canvas, content, self.pixel_range) if canvas else decode(content, self.pixel_range)
        except BrokenImageError as error:
            raise BrokenImageError(
                f"{printable(path)} could be read when the source was opened and cannot be now: {error}"
            ) from error

    def origin(self, index: int) -> str:
        return printable(self._paths[index])


class FolderSource(FileSource):
    """The image files below a folder, in the order of their paths."""

    def __init__(self, name: str, folder: Path, *, labels: bool, stated_range: PixelRange | None = None, **about):
        if not folder.is_dir():
            is_file = " (it is a file)" if folder.exists() else ""
            raise ValueError(f"{name}: there is no folder {printable(folder)}{is_file}.")
        files = list_files(folder)
        images = [path for path in files.paths if is_image(path)]
        if files.unreadable and not images:
            path, reason = files.unreadable[0]
            raise ValueError(f"{name}: {printable(folder)} holds no image that can be reached: {path}: {reason}.")
        super().__init__(name, folder, images, about, stated_range)
        links = ((printable(path), reason) for path, reason in files.links if is_image(path))
        self.refused = [*self.refused, *links, *files.unreadable]
        archives = [path for path in files.paths if kind_of(path.name) in ("tar", "zip") or is_other_archive(path.name)]
        if archives:
            self.notes = [
                *self.notes,
                f"archives in the folder ({len(archives):,}, e.g. {printable(archives[0].name)}) are not looked into; "
                "python -m tools.import_images imports what they hold",
            ]
        if labels:
            self._label(folder)

    def _label(self, folder: Path) -> None:
        below = [path.relative_to(folder) for path in self._paths]
        loose = next((path for path in self._paths if path.parent == folder), None)
        if loose:
            raise ValueError(
                f"{self.name}: labels=folder needs each image in a class folder, but {printable(loose)} is in none."
            )
        require_no_splits(below, self.name, str(Uri("folder", str(folder))))
        names = [printable(path.parts[0]) for path in below]
        self.classes, self.labels = encode_labels(list(map(class_name, names)))
        self.notes = [*self.notes, *spelling_notes(gather_spellings(names)), *split_note(self.classes)]


class ListSource(FileSource):
    """The image files that a list names, in its order.

    The list is a CSV file with a header or a Parquet file. Column `path` is relative to the list's folder; columns `label`,
    `licence` (or `license`) and `cost` (or `cost_per_image`) are optional.

    Args:
      name: the URI.
      file: the list.
      labels: "multi": column `label` holds any number of classes of each image, as `split_labels` reads them; "single": one;
        None: a Parquet column of lists is multi-label, another column is not.
      stated_range: the pixel range that the user gave, if any.
      **about: licence and cost_per_image.

    Raises:
      ValueError: the list is none, or its columns do not hold what they should.
    """

    def __init__(self, name: str, file: Path, *, labels: str | None = None, stated_range: PixelRange | None = None, **about):
        listed = read_list(file, name, labels)
        super().__init__(name, file.parent, [file.parent / path for path in listed.paths], about, stated_range)
        whole = self._whole.tolist()
        licences = Counter(listed.licences[i] or self.licence for i in whole)
        self.licence = licence_text(licences, self.licence)
        costs = [listed.costs[i] for i in whole]
        if any(cost is not None for cost in costs):
            self.cost_per_image = float(np.mean([self.cost_per_image if cost is None else cost for cost in costs]))
        if listed.labels is not None:
            encode = encode_multi_labels if listed.multi_label else encode_labels
            self.classes, self.labels = encode([listed.labels[i] for i in whole])
            self.notes = [*self.notes, *spelling_notes(listed.spellings)]
            if not self.classes:
                raise ValueError(f"{name}: no image that can be read has a label; leave the column out.")


class _Check(NamedTuple):
    digest: str
    reason: str
    levels: Levels | None = None


def _check(path: Path, stated_range: PixelRange | None) -> _Check:
    """Returns a file's digest, and why it is no image if it is none."""
    try:
        content = read_file(path)
        levels = check(content, stated_range)
    except BrokenImageError as error:
        return _Check("", str(error))
    return _Check(hashlib.sha256(content).hexdigest(), "", levels and levels.of(printable(path)))
