"""Imports a collection into a source: list, encode in parallel, join. Any call goes on where an earlier one was stopped."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sslshift.data.decode import BrokenImageError, UnknownRangeError, check
from sslshift.data.ranges import Levels, PixelRange, decide_range, describe_range, merge_levels
from sslshift.data.records.encode import Encoding, store
from sslshift.data.records.folder import (
    find_finished,
    forget_levels,
    has_levels,
    keep_settings,
    read_levels,
    remove_parts,
    write_levels,
)
from sslshift.data.records.listing import Container, Listing, find_containers, list_container, read_group
from sslshift.data.records.members import read_entry, require_unchanged
from sslshift.data.records.shards import FinishedShard, StoredImage, finish, finished_part, write_shard
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.labels import gather_spellings, spelling_notes
from sslshift.data.sources.layout import require_no_splits, split_note
from sslshift.data.sources.manifest import CLASSES, REFUSED, Summary, write_refused
from sslshift.data.sources.walk import is_image, list_files

SETTINGS = "import.json"
LABELS = ("none", "folder", "multi")


@dataclasses.dataclass(frozen=True)
class Import:
    """What is imported, and how.

    Args:
      input: a folder, archive or list.
      output: folder of the new source.
      encoding: how images are stored.
      labels: "folder" takes an image's first folder as its label, "none" what lists and sidecars say; "multi" any number of
        labels of a list, as `csv:FILE?labels=multi` (a Parquet column of lists is multi-label with "none" as well).
      licence: of images of which nothing else is said.
      cost_per_image: of images of which nothing else is said.
      shard_size: images in a shard, at most.
      pixel_range: the values of images of more than 8 bits that become 0 and 255; None: decided from all of them.
    """

    input: Path
    output: Path
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    labels: str = "none"
    licence: str = "unknown"
    cost_per_image: float = 0.0
    shard_size: int = 1024
    pixel_range: PixelRange | None = None

    def __post_init__(self):
        if self.labels not in LABELS:
            raise ValueError(f"labels is one of {', '.join(LABELS)}, not {self.labels!r}.")
        if self.shard_size < 1:
            raise ValueError(f"A shard holds at least one image, not {self.shard_size}.")
        if not 0 <= self.cost_per_image < float("inf"):
            raise ValueError(f"cost_per_image must be a number of at least 0, not {self.cost_per_image}.")

    @property
    def record(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        values = dataclasses.asdict(self)
        del values["output"], values["pixel_range"]
        stated = self.pixel_range and self.pixel_range.text
        return values | {"input": printable(self.input.resolve()), "range": stated}


class ShardTask(NamedTuple):
    """One group of a container's listing: it becomes one shard."""

    container: int
    group: int

    @property
    def name(self) -> str:
        return f"{self.container:05d}-{self.group:05d}"


class Result(NamedTuple):
    """What an import made.

    Attributes:
      summary: of the source.
      others: numbers of files that were left alone, by extension.
      faults: archives and folders that could not be read whole: nobody knows how many images they hold.
      earlier: an earlier call made it, and the input was not looked at.
    """

    summary: Summary
    others: dict[str, int]
    faults: Sequence[Refused] = ()
    earlier: bool = False


def begin(job: Import) -> Summary | None:
    """Checks the output folder, and makes it; the summary if all is done already.

    Raises:
      ValueError: it holds something else, or was made with other settings.
    """
    done = find_finished(job.output, SETTINGS, job.record, free=["range"])
    if done:
        remove_parts(job.output)
    elif not (job.output / SETTINGS).exists():
        # A mistake in the input shows before anything is made.
        containers = find_containers(job.input)
        is_list = containers[0].kind == "list"
        if job.labels == "multi" and not is_list:
            raise ValueError(f"labels=multi reads a CSV or Parquet list, and {printable(job.input)} is none; import a list.")
        if job.labels == "folder" and is_list:
            raise ValueError(
                f"labels=folder takes the folders of a folder or an archive as labels, and {printable(job.input)} is a list; "
                "its column 'label' says them, with labels=none."
            )
        if job.labels == "folder" and job.input.is_dir():
            images = (path.relative_to(job.input) for path in list_files(job.input).paths if is_image(path))
            require_no_splits(images, f"--input={printable(job.input)}", printable(job.input))
        job.output.mkdir(parents=True, exist_ok=True)
        keep_settings(job.output, SETTINGS, job.record)
    elif json.loads((job.output / SETTINGS).read_text(encoding="utf-8")).get("range") != job.record["range"]:
        forget_levels(job.output)
        keep_settings(job.output, SETTINGS, job.record)
    return done


def list_task(job: Import, container: Container) -> Listing:
    """Lists a container, or reads what an earlier call listed."""
    return list_container(container, job.output, job.shard_size, job.labels)


def tasks_of(listings: Iterable[Listing]) -> list[ShardTask]:
    return [ShardTask(listing.container, group) for listing in listings for group in range(listing.groups)]


def waiting_tasks(job: Import, listings: Iterable[Listing]) -> list[ShardTask]:
    """Returns the tasks whose images wait for `choose_range`, after every task was given to `import_group`."""
    return [task for task in tasks_of(listings) if not finished_part(job.output, task.name)]


def choose_range(job: Import) -> PixelRange | None:
    """Returns the pixel range of the import, or None where no image has more than 8 bits.

    Raises:
      ValueError: values need a stated range.
    """
    try:
        return decide_range(read_levels(job.output), job.pixel_range, printable(job.input), "--range")
    except ValueError:
        # They are read again, once a range is stated or an image is taken away.
        forget_levels(job.output)
        raise


def import_group(job: Import, task: ShardTask, pixel_range: PixelRange | None = None) -> FinishedShard | None:
    """Encodes the images of a task into their shard; a pure function of what the files hold, and of the pixel range.

    Returns:
      What is known of the shard; None where images have more than 8 bits and there is no pixel range yet: their values were
      written down for `choose_range`.
    """
    pixel_range = pixel_range or job.pixel_range
    if not pixel_range and has_levels(job.output, task.name):
        return finished_part(job.output, task.name)
    rows = read_group(job.output, *task)
    require_unchanged(rows)
    extra = [CLASSES] if any(row.get(CLASSES.name) is not None for row in rows) else []
    try:
        return write_shard(job.output, task.name, _all_stored(job, task, rows, pixel_range), extra)
    except UnknownRangeError:
        write_levels(job.output, task.name, filter(None, map(_levels, rows)))
        return None


def _levels(row: dict[str, Any]) -> Levels | None:
    try:
        levels = check(read_entry(row))
    except BrokenImageError:
        return None
    return levels and levels.of(row["origin"])


def _all_stored(
    job: Import, task: ShardTask, rows: Sequence[dict], pixel_range: PixelRange | None
) -> Iterator[StoredImage | Refused]:
    found: list[Levels] = []
    for row in rows:
        item = _stored(job, row, pixel_range)
        if isinstance(item, StoredImage) and item.levels:
            found = merge_levels([*found, item.levels])
        yield item
    if found:
        write_levels(job.output, task.name, found)


def _stored(job: Import, row: dict[str, Any], pixel_range: PixelRange | None) -> StoredImage | Refused:
    about = {key: row[key] for key in ("origin", "class", "licence", "cost", "caption", "url")}
    if row.get(CLASSES.name) is not None:
        about[CLASSES.name] = row[CLASSES.name]
    try:
        content = read_entry(row)
    except BrokenImageError as error:
        return Refused(row["origin"], str(error))
    return store(content, about, job.encoding, pixel_range)


def join(job: Import, listings: Sequence[Listing]) -> Result:
    """The source of finished shards.

    Raises:
      ValueError: there is not one readable image.
    """
    listings = sorted(listings, key=lambda listing: listing.container)
    names = [task.name for task in tasks_of(listings)]
    refused = [each for listing in listings for each in listing.refused]
    others = sum((Counter(listing.others) for listing in listings), Counter())
    parts = [finished_part(job.output, name) for name in names]
    if not any(part.records for part in parts):
        refused += [each for part in parts for each in part.refused]
        write_refused(job.output, refused)
        # What was listed goes, so that the command looks again once the input is mended.
        remove_parts(job.output)
        raise ValueError(_nothing(job, refused, others))
    chosen = choose_range(job)
    records = sum(part.records for part in parts)
    summary = finish(
        job.output,
        names,
        licence=job.licence,
        cost_per_image=job.cost_per_image,
        made=job.record,
        refused=refused,
        pixel_range=chosen,
        notes=[*describe_range(read_levels(job.output), chosen or job.pixel_range, records, "--range"), *_notes(job, listings)],
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
                f"import {name} itself, out of an archive after unpacking it"
            )
    return notes


def _archives_note(job: Import, listings: Sequence[Listing]) -> list[str]:
    """Returns a note where a folder has images and archives of images: often an archive and what was unpacked from it."""
    archives = [listing for listing in listings if listing.container and listing.images]
    files = sum(listing.images for listing in listings if not listing.container)
    if not (archives and files):
        return []
    inside = sum(listing.images for listing in archives)
    labels = ", and have the first folders within these as labels" if job.labels == "folder" else ""
    return [
        f"{files:,} images are files, and {inside:,} are in archives beside them ({len(archives):,}, e.g. {archives[0].path})"
        f"{labels}; if the archives hold the same images, import one or the other"
    ]


def _nothing(job: Import, refused: Sequence[Refused], others: Counter[str]) -> str:
    told = f"{printable(job.input)} holds no image that can be read"
    if refused:
        path, reason = refused[0]
        return f"{told}: {len(refused):,} were refused, e.g. {path} ({reason}); {job.output / REFUSED} lists them."
    return f"{told}; it has {sum(others.values()):,} files of other kinds."
