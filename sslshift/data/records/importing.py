"""The steps of an import: list the containers, encode each group of images into a shard, join the shards into a source.

`running` calls the steps, in parallel processes or on many machines. Every step keeps its result in the output folder, so that
a repeated call continues where an earlier one was stopped.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.data.decode import BrokenImageError, UnknownRangeError, check
from sslshift.data.ranges import Levels, PixelRange, decide_range, describe_range, merge_levels
from sslshift.data.records.encode import Encoding, StoredImage, store
from sslshift.data.records.folder import (
    find_finished,
    forget_levels,
    has_levels,
    keep_settings,
    read_levels,
    remove_parts,
    write_levels,
)
from sslshift.data.records.listing import Container, ListedImage, Listing, find_containers, list_container, read_group
from sslshift.data.records.members import read_place, require_unchanged
from sslshift.data.records.shards import FinishedShard, finish, finished_shard, write_shard
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.labels import gather_spellings, spelling_notes
from sslshift.data.sources.layout import require_no_splits, split_note
from sslshift.data.sources.manifest import CLASSES, GROUP, Summary
from sslshift.data.sources.refusals import REFUSED, examples, write_refused
from sslshift.data.sources.walk import is_image, list_files

SETTINGS = "import.json"
LABELS = ("none", "folder", "multi")


@dataclasses.dataclass(frozen=True)
class Import:
    """The input, the output and the settings of an import.

    Args:
      input: a folder, archive or list.
      output: folder of the new source.
      encoding: encoding of the stored images.
      labels: "folder" makes an image's first folder its label; "none" takes labels from lists and sidecars; "multi" takes any
        number of labels from a list, as `csv:FILE?labels=multi` does (a Parquet column of lists is multi-label with "none"
        too).
      licence: licence of images that state no other licence.
      cost_per_image: cost of images that state no other cost.
      shard_size: largest number of images in a shard.
      pixel_range: the values of images of more than 8 bits that become 0 and 255; None: derived from all such images.
      max_pixels: largest number of pixels of an image, see `decode`.
    """

    input: Path
    output: Path
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    labels: str = "none"
    licence: str = "unknown"
    cost_per_image: float = 0.0
    shard_size: int = 1024
    pixel_range: PixelRange | None = None
    max_pixels: int | None = None

    def __post_init__(self):
        if self.labels not in LABELS:
            raise ValueError(f"Expected one of {', '.join(LABELS)} for labels, got {self.labels!r}.")
        if self.shard_size < 1:
            raise ValueError(f"Expected at least one image in a shard, got {self.shard_size}.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"Expected a number of at least 1 for max_pixels, got {self.max_pixels}.")
        # Written so that NaN fails too.
        if not 0 <= self.cost_per_image < float("inf"):
            raise ValueError(f"Expected a number of at least 0 for cost_per_image, got {self.cost_per_image}.")

    @property
    def record(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON."""
        values = dataclasses.asdict(self)
        del values["output"], values["pixel_range"]
        # Earlier versions had no such setting, and imports that they began must continue.
        if self.max_pixels is None:
            del values["max_pixels"]
        stated = self.pixel_range and self.pixel_range.text
        # The path is resolved, so that a command that is repeated from another folder is recognised.
        return values | {"input": printable(self.input.resolve()), "range": stated}


class ShardTask(NamedTuple):
    """One group of a container's listing, which becomes one shard."""

    container: int
    group: int

    @property
    def name(self) -> str:
        """Name of the shard; names sort in the order of containers and groups."""
        return f"{self.container:05d}-{self.group:05d}"


class Result(NamedTuple):
    """The result of an import.

    Attributes:
      summary: summary of the source.
      others: numbers of files that were ignored, by extension.
      faults: archives and folders that could not be read completely: they may hold any number of images.
      earlier: True if the source was made by an earlier call; the input was then not read.
    """

    summary: Summary
    others: dict[str, int]
    faults: Sequence[Refused] = ()
    earlier: bool = False


def begin(job: Import) -> Summary | None:
    """Checks the output folder and makes it; returns the summary if the source is already complete.

    Raises:
      ValueError: the folder holds something else, or was made with other settings.
    """
    done = find_finished(job.output, SETTINGS, job.record, free=["range"])
    if done:
        # A process that was killed just before its end leaves the work in progress of a finished source.
        remove_parts(job.output)
    elif not (job.output / SETTINGS).exists():
        # The input is checked before the folder is made: a mistake in the input must not leave a folder behind.
        _require_labels(job, find_containers(job.input)[0].kind == "list")
        job.output.mkdir(parents=True, exist_ok=True)
        keep_settings(job.output, SETTINGS, job.record)
    elif json.loads((job.output / SETTINGS).read_text(encoding="utf-8")).get("range") != job.record["range"]:
        # Until the source is complete, another range may be stated.
        forget_levels(job.output)
        keep_settings(job.output, SETTINGS, job.record)
    return done


def _require_labels(job: Import, is_list: bool) -> None:
    """Raises ValueError if the input cannot have labels of the requested kind."""
    if job.labels == "multi" and not is_list:
        raise ValueError(f"labels=multi expects a CSV or Parquet list as the input, got {printable(job.input)}.")
    if job.labels == "folder" and is_list:
        raise ValueError(
            f"labels=folder expects a folder or an archive as the input, got the list {printable(job.input)}; use labels=none "
            "to take the labels from its column 'label'."
        )
    # Archives are checked when they are listed, since their members are unknown before.
    if job.labels == "folder" and job.input.is_dir():
        images = (path.relative_to(job.input) for path in list_files(job.input).paths if is_image(path))
        require_no_splits(images, f"--input={printable(job.input)}", printable(job.input))


def list_task(job: Import, container: Container) -> Listing:
    """Lists a container, or reads the listing of an earlier call."""
    return list_container(container, job.output, job.shard_size, job.labels)


def tasks_of(listings: Iterable[Listing]) -> list[ShardTask]:
    """Returns the tasks for all groups of the listings."""
    return [ShardTask(listing.container, group) for listing in listings for group in range(listing.groups)]


def waiting_tasks(job: Import, listings: Iterable[Listing]) -> list[ShardTask]:
    """Returns the tasks whose images wait for `choose_range`, after every task has been given to `import_group`."""
    return [task for task in tasks_of(listings) if not finished_shard(job.output, task.name)]


def choose_range(job: Import) -> PixelRange | None:
    """Returns the pixel range of the import, or None if no image has more than 8 bits.

    Raises:
      ValueError: a range must be stated for the values of these images.
    """
    try:
        return decide_range(read_levels(job.output), job.pixel_range, printable(job.input), "--range")
    except ValueError:
        # The images are read again once a range is stated, or the images that need it are removed.
        forget_levels(job.output)
        raise


def import_group(job: Import, task: ShardTask, pixel_range: PixelRange | None = None) -> FinishedShard | None:
    """Encodes the images of a task into their shard; the shard is a pure function of the files and the pixel range.

    Returns:
      The shard. None if images have more than 8 bits and there is no pixel range yet: the range of their values was written for
      `choose_range`.
    """
    pixel_range = pixel_range or job.pixel_range
    # An earlier call has read these images: they still wait for the range.
    if not pixel_range and has_levels(job.output, task.name):
        return finished_shard(job.output, task.name)
    images = read_group(job.output, *task)
    # This is checked before reading: positions in an archive that was replaced lead to other images.
    require_unchanged(image.place for image in images)
    extra = [CLASSES] if any(image.description.classes is not None for image in images) else []
    extra += [GROUP] if any(image.description.group is not None for image in images) else []
    try:
        return write_shard(job.output, task.name, _all_stored(job, task, images, pixel_range), extra)
    except UnknownRangeError:
        # All images of the shard are read: the first image that needed the range ended the writing, and later images count too.
        write_levels(job.output, task.name, filter(None, (_levels(job, image) for image in images)))
        return None


def _levels(job: Import, image: ListedImage) -> Levels | None:
    """Returns the range of values of an image of more than 8 bits; None for other and for unreadable images."""
    try:
        levels = check(read_place(image.place), max_pixels=job.max_pixels)
    except BrokenImageError:
        return None
    return levels and levels.of(image.description.origin)


def _all_stored(
    job: Import, task: ShardTask, images: Sequence[ListedImage], pixel_range: PixelRange | None
) -> Iterator[StoredImage | Refused]:
    found: list[Levels] = []
    for image in images:
        item = _stored(job, image, pixel_range)
        if isinstance(item, StoredImage) and item.levels:
            found = merge_levels([*found, item.levels])
        yield item
    # The values are kept after a stated range too: the notes report how many pixels it clips.
    if found:
        write_levels(job.output, task.name, found)


def _stored(job: Import, image: ListedImage, pixel_range: PixelRange | None) -> StoredImage | Refused:
    try:
        content = read_place(image.place)
    except BrokenImageError as error:
        return Refused(image.description.origin, str(error))
    return store(content, image.description, job.encoding, pixel_range, job.max_pixels)


def join_shards(job: Import, listings: Sequence[Listing]) -> Result:
    """Joins the finished shards into the source.

    Raises:
      ValueError: there is no image that can be read.
    """
    # Processes return listings in any order, on which the records must not depend.
    listings = sorted(listings, key=lambda listing: listing.container)
    names = [task.name for task in tasks_of(listings)]
    refused = [each for listing in listings for each in listing.refused]
    others = sum((Counter(listing.others) for listing in listings), Counter())
    shards = [finished_shard(job.output, name) for name in names]
    records = sum(shard.records for shard in shards)
    if not records:
        refused += [each for shard in shards for each in shard.refused]
        write_refused(job.output, refused)
        # The listings are removed, so that a repeated command reads the input again.
        remove_parts(job.output)
        raise ValueError(_no_image(job, refused, others))
    chosen = choose_range(job)
    # A stated range that no image needed is reported too.
    notes = describe_range(read_levels(job.output), chosen or job.pixel_range, records, "--range")
    summary = finish(
        job.output,
        names,
        licence=job.licence,
        cost_per_image=job.cost_per_image,
        made=job.record,
        refused=refused,
        pixel_range=chosen,
        notes=[*notes, *_notes(job, listings)],
    )
    return Result(summary, dict(others), [each for listing in listings for each in listing.faults])


def _notes(job: Import, listings: Sequence[Listing]) -> list[str]:
    spellings = gather_spellings(name for listing in listings for texts in listing.spellings.values() for name in texts)
    notes = spelling_notes(spellings) + _archives_note(job, listings)
    if job.labels == "folder":
        notes += split_note(spellings)
        if len(spellings) == 1:
            (name,) = spellings
            notes.append(
                f"{name} is the only class, since images are in no other first folder; if {name} holds the class folders, "
                f"import {name} itself (if it is in an archive, unpack it first)"
            )
    return notes


def _archives_note(job: Import, listings: Sequence[Listing]) -> list[str]:
    """Returns a note if a folder has images and archives of images, which are often an archive and its unpacked content."""
    archives = [listing for listing in listings if listing.container and listing.images]
    # Container 0 is the folder itself.
    files = sum(listing.images for listing in listings if not listing.container)
    if not (archives and files):
        return []
    inside = sum(listing.images for listing in archives)
    labels = ", whose first folders are their labels" if job.labels == "folder" else ""
    return [
        f"{files:,} images are files, and {inside:,} are in archives beside them ({len(archives):,}, e.g. {archives[0].path})"
        f"{labels}; if the archives hold the same images, import only the files or only the archives"
    ]


def _no_image(job: Import, refused: Sequence[Refused], others: Counter[str]) -> str:
    start = f"{printable(job.input)} holds no image that can be read"
    if refused:
        return f"{start}: {len(refused):,} were refused: {examples(refused)}; {job.output / REFUSED} lists all."
    return f"{start}; it has {sum(others.values()):,} files of other kinds."
