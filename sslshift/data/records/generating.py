"""Makes a source of images that a model generates from class names, which become the labels.

Image `number` of a class is a function of its prompt, its seed and the settings of the model; its seed is a function of (seed,
class, number). An image therefore does not depend on the other images, on batches and shards, or on interruptions. The model
decides how exactly a repeated image equals the first one, see `diffusion`.

The order is: number 0 of every class, then number 1 of every class, and so on. An unfinished source is therefore balanced, and
the images for `per_prompt=10` are the first images for `per_prompt=20`. A call that was stopped can be repeated with a smaller
`per_prompt`, which makes a source of the images that exist.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from sslshift.data.records.encode import Encoding, store
from sslshift.data.records.folder import find_finished, keep_settings, locked, parts_folder, remove_parts
from sslshift.data.records.prompts import Generate, Request, Sampling, image_seed
from sslshift.data.records.shards import StoredImage, finish, finished_shard, shard_file, write_shard
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.manifest import ImageDescription, Summary, read_summary

SETTINGS = "generate.json"
# Columns of the manifest in addition to the columns of every source.
COLUMNS = (
    pa.field("prompt", pa.string()),
    pa.field("seed", pa.int64()),
    pa.field("model", pa.string()),
    pa.field("pipeline", pa.string()),
    pa.field("steps", pa.int32()),
    pa.field("guidance", pa.float64()),
)


@dataclasses.dataclass(frozen=True)
class Generation:
    """The prompts, the output and the settings of a generation.

    Args:
      prompts: prompts of every class; the images of a class use its prompts in turn.
      output: folder of the new source.
      sampling: the model and its settings.
      per_prompt: images of each class, including refused images; it may change until the source is complete.
      seed: another seed gives other images.
      encoding: encoding of the stored images.
      licence: licence of the images.
      cost_per_image: cost of an image.
      shard_size: largest number of images in a shard; an interruption loses less than one shard.
    """

    prompts: Mapping[str, Sequence[str]]
    output: Path
    sampling: Sampling
    per_prompt: int
    seed: int = 0
    encoding: Encoding = dataclasses.field(default_factory=Encoding)
    licence: str = "unknown"
    cost_per_image: float = 0.0
    shard_size: int = 256

    def __post_init__(self):
        if not self.prompts or not all(self.prompts.values()):
            raise ValueError("Expected at least one class for the generated images, and at least one prompt for each class.")
        if self.per_prompt < 1:
            raise ValueError(f"Expected at least one image of each class for per_prompt, got {self.per_prompt}.")
        if self.shard_size < 1:
            raise ValueError(f"Expected at least one image in a shard, got {self.shard_size}.")
        if not 0 <= self.cost_per_image < float("inf"):
            raise ValueError(f"Expected a number of at least 0 for cost_per_image, got {self.cost_per_image}.")

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the result, as JSON."""
        names = "prompts", "per_prompt", "seed", "licence", "cost_per_image", "shard_size"
        others = {name: getattr(self, name) for name in names}
        return others | dataclasses.asdict(self.sampling) | {"encoding": dataclasses.asdict(self.encoding)}

    @functools.cached_property
    def classes(self) -> list[str]:
        """Names of the classes in order."""
        return list(self.prompts)

    def __len__(self) -> int:
        return len(self.prompts) * self.per_prompt


def find_generated(job: Generation) -> Summary | None:
    """Returns the summary of a complete source, or None if there is something to do.

    Raises:
      ValueError: the folder holds something else, or was made with other settings.
    """
    return find_finished(job.output, SETTINGS, job.settings, free=["per_prompt"])


def count_kept(job: Generation) -> int:
    """Returns the number of images, including refused images, in the shards that earlier calls finished."""
    return sum(len(places) for name, places in _shards(job).items() if finished_shard(job.output, name))


def run_generation(
    job: Generation,
    generate: Generate,
    *,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    about: Mapping[str, Any] | None = None,
) -> Summary:
    """Generates images into `job.output`, or continues an earlier call.

    Args:
      job: the prompts, the output and the settings.
      generate: the model that `job.sampling` describes.
      batch_size: images that are generated at once. It is not a setting of the source, so that a call that ran out of memory
        can be repeated with a smaller batch.
      on_progress: called with the number of finished images, including refused images, and the number of all images. The first
        call has the number of images that exist already.
      about: further facts for `source.json` about how the source was made.

    Raises:
      ValueError: the folder holds something else, was made with other settings, or is being written by another process.
      RuntimeError: the model does not return an image for each prompt, or all images of the first shard were refused.
      OSError: the disk is full; repeat the call.
    """
    if batch_size < 1:
        raise ValueError(f"Expected at least one image in a batch, got {batch_size}.")
    finished = find_generated(job)
    if finished:
        # A process that was killed just before its end leaves the work in progress of a finished source.
        remove_parts(job.output)
        return finished
    with locked(job.output):
        done = count_kept(job)
        on_progress(done, len(job))
        for name, places in _shards(job).items():
            if finished_shard(job.output, name):
                continue
            items: list[StoredImage | Refused] = []
            for start in range(0, len(places), batch_size):
                items += _generated(job, generate, [_request(job, place) for place in places[start : start + batch_size]])
                on_progress(done + len(items), len(job))
            done += len(items)
            # A wrong prompt or precision is noticed in the first shard, before it costs hours.
            if 0 in places and all(isinstance(item, Refused) for item in items):
                raise RuntimeError(f"All of the first {len(items):,} images were refused; {items[0].path}: {items[0].reason}.")
            # The settings are written only now: until the first shard exists, other settings lose no work.
            keep_settings(job.output, SETTINGS, job.settings)
            write_shard(job.output, name, items, COLUMNS)
        # With a smaller `per_prompt` than before, every shard may have existed already.
        keep_settings(job.output, SETTINGS, job.settings)
        _remove_others(job)
        made = job.settings | dict(about or {})
        finish(job.output, list(_shards(job)), licence=job.licence, cost_per_image=job.cost_per_image, made=made)
    return read_summary(job.output, printable(job.output))


def _shards(job: Generation) -> dict[str, range]:
    """Returns the names of the shards, and the positions of their images in the order of the job.

    If a shard is large enough for all classes, every full shard holds the same number of images of each class.
    """
    # The size is a multiple of the number of classes, so that every shard is balanced.
    size = job.shard_size // len(job.prompts) * len(job.prompts) or job.shard_size
    shards = [range(start, min(start + size, len(job))) for start in range(0, len(job), size)]
    return {f"{places.start:09d}-{places.stop - 1:09d}": places for places in shards}


def _request(job: Generation, place: int) -> Request:
    # All classes take turns: place 0 is the first image of the first class.
    number, which = divmod(place, len(job.prompts))
    name = job.classes[which]
    prompts = job.prompts[name]
    return Request(name, number, prompts[number % len(prompts)], image_seed(job.seed, name, number))


def _generated(job: Generation, generate: Generate, batch: Sequence[Request]) -> list[StoredImage | Refused]:
    images = generate([request.prompt for request in batch], [request.seed for request in batch])
    if len(images) != len(batch):
        raise RuntimeError(f"{job.sampling.model} returned {len(images)} images for {len(batch)} prompts.")
    return [_stored(job, request, image) for request, image in zip(batch, images, strict=True)]


def _stored(job: Generation, request: Request, image: Image.Image | str) -> StoredImage | Refused:
    if isinstance(image, str):
        return Refused(request.origin, image)
    # PPM, in which the image is stored below, has only these two modes.
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    # Black images come from overflows in half precision and from safety checkers.
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        return Refused(request.origin, "it has a single colour; the reason can be an overflow or a safety checker")
    # The digest of a PPM file depends only on the size and the pixels, not on the version of a library.
    file = io.BytesIO()
    image.save(file, "PPM")
    sampling = {name: getattr(job.sampling, name) for name in ("model", "pipeline", "steps", "guidance")}
    extra = {"prompt": request.prompt, "seed": request.seed, **sampling}
    return store(file.getvalue(), ImageDescription(request.origin, class_name=request.name, extra=extra), job.encoding)


def _remove_others(job: Generation) -> None:
    """Removes the shards that earlier calls wrote for another `per_prompt` and that this call does not use."""
    wanted = {shard_file(name) for name in _shards(job)}
    for path in job.output.glob("images-*"):
        if path.name not in wanted:
            name = path.name.removeprefix("images-").partition(".")[0]
            # The marker goes first: a shard without a marker does not count, even if this process is killed now.
            (parts_folder(job.output) / f"{name}.json").unlink(missing_ok=True)
            path.unlink()
