"""Makes a source of images that a model generates from class names: its classes are the labels.

Image `number` of a class is a function of its prompt, its seed and the model's settings, and its seed one of (seed, class,
number): whatever else is generated, in which batches and shards, and after however many interruptions, it is the same image.
How exactly the same is up to the model: see `diffusion`.

Images come in turn: number 0 of every class, then number 1 of every class. So whatever was made so far is balanced, the images
with `per_prompt=10` are the first of those with `per_prompt=20`, and a call that was stopped is worth what it made: the same
call with a smaller `per_prompt` makes that a source.
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
from sslshift.data.records.shards import StoredImage, finish, finished_part, shard_file, write_shard
from sslshift.data.sources.base import Refused, printable
from sslshift.data.sources.manifest import Summary, read_summary

SETTINGS = "generate.json"
# Columns of the manifest beside those that every source has.
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
    """What is generated, and how.

    Args:
      prompts: of every class; its images use them in turn.
      output: folder of the new source.
      sampling: the model and how it is asked.
      per_prompt: images of each class, refused ones included; until all are made it may be changed.
      seed: another one gives other images.
      encoding: how images are stored.
      licence: of the images.
      cost_per_image: of the images.
      shard_size: images in a shard, at most; an interruption loses less than one.
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
            raise ValueError("There is no class to generate images of, or one without a prompt.")
        if self.per_prompt < 1:
            raise ValueError(f"per_prompt is at least one image of each class, not {self.per_prompt}.")
        if self.shard_size < 1:
            raise ValueError(f"A shard holds at least one image, not {self.shard_size}.")
        if not 0 <= self.cost_per_image < float("inf"):
            raise ValueError(f"cost_per_image must be a number of at least 0, not {self.cost_per_image}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        names = "prompts", "per_prompt", "seed", "licence", "cost_per_image", "shard_size"
        others = {name: getattr(self, name) for name in names}
        return others | dataclasses.asdict(self.sampling) | {"encoding": dataclasses.asdict(self.encoding)}

    @functools.cached_property
    def classes(self) -> list[str]:
        return list(self.prompts)

    def __len__(self) -> int:
        return len(self.prompts) * self.per_prompt


def find_generated(job: Generation) -> Summary | None:
    """The summary if all is done already, None if there is something to do.

    Raises:
      ValueError: the folder holds something else, or was made with other settings.
    """
    return find_finished(job.output, SETTINGS, job.settings, free=["per_prompt"])


def count_kept(job: Generation) -> int:
    """Images of the job, refused ones included, in shards that earlier calls finished."""
    return sum(len(places) for name, places in _shards(job).items() if finished_part(job.output, name))


def run_generation(
    job: Generation,
    generate: Generate,
    *,
    batch_size: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    about: Mapping[str, Any] | None = None,
) -> Summary:
    """Generates images into `job.output`, or goes on where an earlier call was stopped.

    Args:
      job: what and how.
      generate: the model that `job.sampling` describes.
      batch_size: images that are generated at once; no setting of the source, so that a call that ran out of memory can be
        repeated with less.
      on_progress: called with the images done so far, refused ones included, and those of the job; first with what is kept.
      about: what else `source.json` says of how the source was made.

    Raises:
      ValueError: the folder holds something else, was made with other settings, or another process writes there.
      RuntimeError: the model does not give an image for each prompt, or none of its first ones can be used.
      OSError: the disk is full; repeat the call.
    """
    if batch_size < 1:
        raise ValueError(f"A batch holds at least one image, not {batch_size}.")
    finished = find_generated(job)
    if finished:
        remove_parts(job.output)
        return finished
    with locked(job.output):
        done = count_kept(job)
        on_progress(done, len(job))
        for name, places in _shards(job).items():
            if finished_part(job.output, name):
                continue
            items: list[StoredImage | Refused] = []
            for start in range(0, len(places), batch_size):
                items += _generated(job, generate, [_request(job, place) for place in places[start : start + batch_size]])
                on_progress(done + len(items), len(job))
            done += len(items)
            if 0 in places and all(isinstance(item, Refused) for item in items):
                raise RuntimeError(f"All of the first {len(items):,} images were refused; {items[0].path}: {items[0].reason}.")
            # Not before: until there is a shard, nothing is lost with other settings.
            keep_settings(job.output, SETTINGS, job.settings)
            write_shard(job.output, name, items, COLUMNS)
        keep_settings(job.output, SETTINGS, job.settings)
        _remove_others(job)
        made = job.settings | dict(about or {})
        finish(job.output, list(_shards(job)), licence=job.licence, cost_per_image=job.cost_per_image, made=made)
    return read_summary(job.output, printable(job.output))


def _shards(job: Generation) -> dict[str, range]:
    """Names of the shards, and the places of their images in the order of the job.

    Where there are fewer classes than a shard has room for, it holds equally many images of each.
    """
    size = job.shard_size // len(job.prompts) * len(job.prompts) or job.shard_size
    shards = [range(start, min(start + size, len(job))) for start in range(0, len(job), size)]
    return {f"{places.start:09d}-{places.stop - 1:09d}": places for places in shards}


def _request(job: Generation, place: int) -> Request:
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
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    pixels = np.asarray(image)
    if (pixels == pixels[0, 0]).all():
        return Refused(request.origin, "it is of one colour, as after an overflow or from a safety checker")
    # The digest is that of a PPM file: the pixels after their size, whatever the version of the library that writes it.
    file = io.BytesIO()
    image.save(file, "PPM")
    about = {"origin": request.origin, "class": request.name, "prompt": request.prompt, "seed": request.seed}
    sampling = {name: getattr(job.sampling, name) for name in ("model", "pipeline", "steps", "guidance")}
    return store(file.getvalue(), about | sampling, job.encoding)


def _remove_others(job: Generation) -> None:
    """Removes what earlier calls with another `per_prompt` wrote and this one has no use for."""
    wanted = {shard_file(name) for name in _shards(job)}
    for path in job.output.glob("images-*"):
        if path.name not in wanted:
            name = path.name.removeprefix("images-").partition(".")[0]
            # First: without its marker a shard is not there.
            (parts_folder(job.output) / f"{name}.json").unlink(missing_ok=True)
            path.unlink()
