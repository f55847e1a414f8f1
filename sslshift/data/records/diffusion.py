"""Text-to-image pipelines of the diffusers library as generators of images; torch is imported when one is looked for.

    model = find_model("stabilityai/sdxl-turbo", steps=1, guidance=0.0)
    generate = load_model(model)
    images = generate(["a photo of a cat"], [7])

Every image has random numbers of its own, drawn on the CPU from its seed: the same noise on every device and in every batch.
With one batch size on one CPU the images are then the same bit by bit. Other batch sizes change the order of sums: on a CPU in
float32 by a gray level or two here and there; in half precision and on a GPU by more, and by more with every step. Neither
diffusers nor torch promises equal bits on another device or in another version.

Nothing that is loaded can run code: weights are safetensors (pickle is refused), and classes are those of diffusers and
transformers (a pipeline's own Python files are refused). A path never leads to the network.

diffusers is an optional extra: pip install -e ".[generate]".
"""

import dataclasses
import hashlib
import inspect
import json
import os
import textwrap
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sslshift.data.records.prompts import Generate, Sampling
from sslshift.data.sources.base import printable

DTYPES = ("auto", "float32", "float16", "bfloat16")
INDEX = "model_index.json"
# What a pipeline is made of; nothing else in its folder changes an image.
_PARTS = (".json", ".txt", ".model", ".safetensors")
# Without these arguments, images would not be those of a prompt and a seed.
_NEEDED = ("prompt", "generator", "output_type")


@dataclasses.dataclass(frozen=True)
class Model:
    """A pipeline that was found, and how it is asked.

    Attributes:
      folder: of its files.
      sampling: what decides an image.
      device: on which it computes, as torch names it.
      options: arguments of a call beside prompts and seeds.
    """

    folder: Path
    sampling: Sampling
    device: str
    options: dict[str, Any]


def find_model(
    pipeline: str,
    *,
    revision: str = "",
    steps: int = 0,
    guidance: float | None = None,
    height: int = 0,
    width: int = 0,
    dtype: str = "auto",
    device: str = "auto",
) -> Model:
    """Finds a pipeline and what its images depend on; that of a name is downloaded, unless the hub's cache has it.

    A folder is read whole for its digest, so that weights trained further are noticed: some seconds for some gigabytes.

    Args:
      pipeline: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.
      revision: branch, tag or commit of a name; "": its main branch.
      steps: of the sampler; 0: the pipeline's default.
      guidance: weight of the prompt; None: the pipeline's default.
      height, width: pixels; 0: the pipeline's default.
      dtype: one of `DTYPES`; auto: float32 on a CPU, elsewhere bfloat16, which overflows no more easily than float32.
      device: as torch names it; auto: cuda where there is one, else cpu.

    Raises:
      ValueError: the extra is not installed, there is no such pipeline or device, the hub does not answer, or the pipeline
        takes no prompt or not what is asked for, has no safetensors, or code of its own.
    """
    _require_installed()
    device = _find_device(device)
    local = Path(pipeline).expanduser()
    name = printable(local.resolve()) if local.is_dir() else pipeline
    index = _read_index(local, name) if local.is_dir() else _fetch_index(pipeline, revision)
    kind = _pipeline_class(index, name)
    known = {argument: each.default for argument, each in inspect.signature(kind.__call__).parameters.items()}
    asked = {"num_inference_steps": steps or None, "guidance_scale": guidance, "height": height or None, "width": width or None}
    options = {argument: value for argument, value in asked.items() if value is not None}
    unknown = [argument for argument in (*_NEEDED, *options) if argument not in known]
    if unknown:
        remedy = "give a text-to-image pipeline" if unknown[0] in _NEEDED else "leave that to the pipeline"
        raise ValueError(f"{name} is a {kind.__name__}, which takes no {unknown[0]}; {remedy}.")
    folder = local if local.is_dir() else _download(pipeline, revision)
    _require_no_code(folder, index, name)
    # The folder of a downloaded pipeline is called by its commit.
    identity = f"{name}@{_digest(folder) if local.is_dir() else folder.name}"
    settings = (options.get(argument, known.get(argument)) for argument in asked)
    dtype = ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype
    return Model(folder, Sampling(identity, kind.__name__, *settings, dtype), device, options)


def load_model(model: Model) -> Generate:
    """Loads a pipeline that was found.

    Returns:
      A function of prompts and seeds. Where the pipeline's safety checker flags an image, or values are not finite, its
      answer is the reason.

    Raises:
      ValueError: the pipeline cannot be loaded.
    """
    import torch
    from diffusers import DiffusionPipeline

    name = model.sampling.model
    try:
        # Not the fastest algorithm of each run, but the same in every one.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        pipeline = DiffusionPipeline.from_pretrained(
            model.folder, dtype=getattr(torch, model.sampling.dtype), use_safetensors=True, local_files_only=True
        ).to(model.device)
    except Exception as error:  # Of any kind, as folders can lack anything.
        raise ValueError(
            f"{name} cannot be loaded; it needs weights in safetensors files, as save_pretrained writes them: {_brief(error)}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image | str]:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            output = pipeline(prompt=prompts, generator=generators, output_type="np", **model.options)
            images = list(output.images)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"{len(prompts)} images at once do not fit into the memory of {model.device}; repeat with a smaller batch_size."
            ) from error
        except Exception as error:  # Pipelines check what they are asked for in their own ways.
            raise RuntimeError(f"{name} made no images of {prompts[0]!r}: {_brief(error)}") from error
        flags = getattr(output, "nsfw_content_detected", None) or getattr(output, "nsfw_detected", None)
        return [_image(values, flag) for values, flag in zip(images, flags or [False] * len(images), strict=True)]

    return generate


def hush() -> None:
    """Leaves of what the libraries print only errors, for a command that shows progress of its own; call it first of all.

    Raises:
      ValueError: the extra is not installed.
    """
    for library in ("DIFFUSERS", "HF_HUB", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module="diffusers|huggingface_hub|transformers")
    _require_installed()
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def versions() -> str:
    """The libraries that generate, for the record of a source."""
    return ", ".join(f"{library} {version(library)}" for library in ("diffusers", "transformers", "torch"))


def _image(values: np.ndarray, flagged: bool) -> Image.Image | str:
    """The image of `[height, width, channels]` in [0, 1]."""
    if flagged:
        return "the pipeline's safety checker flagged it"
    if not np.isfinite(values).all():
        return "its values are not finite; in float16 some models overflow, in bfloat16 or float32 they do not"
    pixels = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _require_installed() -> None:
    try:
        import diffusers
        import torch
        import transformers
    except ImportError as error:
        raise ValueError(
            f'Generating images needs diffusers, torch and transformers ({error}): pip install -e ".[generate]".'
        ) from error
    del diffusers, torch, transformers


def _find_device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.zeros(1, device=device).device)
    except Exception as error:  # RuntimeError, AssertionError and NotImplementedError, by the kind of device.
        raise ValueError(f"There is no device {device!r} to compute on: {_brief(error)}") from error


def _read_index(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{name} is no pipeline of diffusers, as save_pretrained writes them: {INDEX}: {_brief(error)}"
        ) from error


def _fetch_index(name: str, revision: str) -> dict[str, Any]:
    """The index of a pipeline on the hub, before gigabytes are fetched."""
    from diffusers import DiffusionPipeline

    if name.count("/") > 1 or name.startswith((".", "/", "~")) or os.path.exists(name):
        raise ValueError(f"There is no folder {name}; give that of a pipeline, or a name on the Hugging Face hub.")
    try:
        return dict(DiffusionPipeline.load_config(name, revision=revision or None))
    except Exception as error:
        raise _unreachable(name, error) from error


def _download(name: str, revision: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, revision=revision or None, use_safetensors=True))
    except Exception as error:  # What its libraries raise: from the network, the disk, the hub, or for want of safetensors.
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"There is no folder {name}, and no such pipeline with safetensors weights came from the Hugging Face hub; check the "
        f"name and the network, or give the folder of a downloaded pipeline: {_brief(error)}"
    )


def _pipeline_class(index: dict[str, Any], name: str) -> type:
    import diffusers

    kind = index.get("_class_name")
    found = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(f"{name} is of the class {kind!r}, which diffusers {version('diffusers')} has not; upgrade it?")
    return found


def _require_no_code(folder: Path, index: dict[str, Any], name: str) -> None:
    """Some versions of diffusers run Python files that lie in a folder."""
    from diffusers import pipelines

    parts = {part: value[0] for part, value in index.items() if isinstance(value, list) and value and value[0]}
    for part, library in parts.items():
        foreign = library not in ("diffusers", "transformers") and not hasattr(pipelines, str(library))
        if foreign or any((folder / part).glob("*.py")):
            raise ValueError(f"The {part} of {name} has code of its own ({library}), which is not run; give another pipeline.")


def _digest(folder: Path) -> str:
    """Of all files that a pipeline is made of: their names and all of their content."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PARTS and path.is_file():
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{printable(path.relative_to(folder))}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _brief(error: Exception) -> str:
    """What an error of another library says, in one line."""
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
