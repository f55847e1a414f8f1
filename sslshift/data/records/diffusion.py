"""Text-to-image pipelines of the diffusers library as generators of images. torch is imported by the first call.

    model = find_model("stabilityai/sdxl-turbo", steps=1, guidance=0.0)
    generate = load_model(model)
    images = generate(["a photo of a cat"], [7])

Every image has its own random numbers, drawn on the CPU from its seed, so that the noise is the same on every device and in
every batch. With one batch size on one CPU the images are then equal to the bit. Another batch size changes the order of sums,
which changes some pixels: by one or two grey levels on a CPU in float32, and by more in half precision, on a GPU, or with more
steps. Neither diffusers nor torch promises equal bits on another device or in another version.

No loaded file can run code: weights are safetensors (pickles are refused), and classes come from diffusers and transformers
(Python files of a pipeline are refused). A path is never looked up on the network.

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
# File types of a pipeline's parts; no other file in its folder changes an image.
_PARTS = (".json", ".txt", ".model", ".safetensors")
# Without these arguments, a pipeline cannot make the image of a prompt and a seed.
_NEEDED = ("prompt", "generator", "output_type")


@dataclasses.dataclass(frozen=True)
class Model:
    """A pipeline that was found, and the settings of its calls.

    Attributes:
      folder: folder of its files.
      sampling: everything that decides an image, in addition to its prompt and seed.
      device: torch's name of the device that computes.
      options: arguments of a call in addition to prompts and seeds.
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
    """Finds a pipeline and everything that its images depend on. A name is downloaded unless the hub's cache has it.

    A folder is read completely for its digest, which changes if the weights are trained further. This takes a few seconds for a
    few gigabytes.

    Args:
      pipeline: a folder that `save_pretrained` wrote, or a name on the Hugging Face hub.
      revision: branch, tag or commit on the hub; "": the main branch.
      steps: steps of the sampler; 0: the pipeline's default.
      guidance: weight of the prompt; None: the pipeline's default.
      height, width: pixels; 0: the pipeline's default.
      dtype: one of `DTYPES`; auto: float32 on a CPU, and bfloat16, which has the range of float32, on other devices.
      device: torch's name of a device; auto: cuda if available, else cpu.

    Raises:
      ValueError: the extra is not installed, the pipeline or the device does not exist, the hub does not answer, or the
        pipeline does not take a prompt or an argument that is set, has no safetensors, or has its own code.
    """
    _require_installed()
    device = _find_device(device)
    local = Path(pipeline).expanduser()
    name = printable(local.resolve()) if local.is_dir() else pipeline
    index = _read_index(local, name) if local.is_dir() else _fetch_index(pipeline, revision)
    kind = _pipeline_class(index, name)
    # Pipelines differ in their arguments; the signature has the names and the defaults.
    known = {argument: each.default for argument, each in inspect.signature(kind.__call__).parameters.items()}
    asked = {"num_inference_steps": steps or None, "guidance_scale": guidance, "height": height or None, "width": width or None}
    options = {argument: value for argument, value in asked.items() if value is not None}
    unknown = [argument for argument in (*_NEEDED, *options) if argument not in known]
    if unknown:
        remedy = "name a text-to-image pipeline" if unknown[0] in _NEEDED else "remove that setting"
        raise ValueError(f"{name} is a {kind.__name__}, which takes no {unknown[0]}; {remedy}.")
    # The download comes last, so that a wrong setting is refused before gigabytes are downloaded.
    folder = local if local.is_dir() else _download(pipeline, revision)
    # The check comes before anything in the folder is imported.
    _require_no_code(folder, index, name)
    # The folder of a downloaded pipeline is named by its commit.
    identity = f"{name}@{_digest(folder) if local.is_dir() else folder.name}"
    # Defaults are recorded too, since they decide an image just like explicit settings.
    settings = (options.get(argument, known.get(argument)) for argument in asked)
    dtype = ("float32" if device == "cpu" else "bfloat16") if dtype == "auto" else dtype
    return Model(folder, Sampling(identity, kind.__name__, *settings, dtype), device, options)


def load_model(model: Model) -> Generate:
    """Loads a pipeline that was found.

    Returns:
      A function of prompts and seeds. For an image that the pipeline's safety checker flags, or whose values are not finite, it
      returns the reason as text.

    Raises:
      ValueError: the pipeline cannot be loaded.
    """
    import torch
    from diffusers import DiffusionPipeline

    name = model.sampling.model
    try:
        # Otherwise torch could choose another fast algorithm in each run, which would change the image.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        pipeline = DiffusionPipeline.from_pretrained(
            model.folder, dtype=getattr(torch, model.sampling.dtype), use_safetensors=True, local_files_only=True
        ).to(model.device)
    except Exception as error:  # The error can have any type, since any file of the folder can be missing or damaged.
        raise ValueError(
            f"{name} cannot be loaded; it needs weights in safetensors files, as save_pretrained writes them: {_brief(error)}"
        ) from error
    pipeline.set_progress_bar_config(disable=True)

    def generate(prompts: list[str], seeds: list[int]) -> list[Image.Image | str]:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        try:
            # The output is arrays and not pictures, so that values that are not finite are noticed before they become pixels.
            output = pipeline(prompt=prompts, generator=generators, output_type="np", **model.options)
            images = list(output.images)
        except torch.OutOfMemoryError as error:
            raise RuntimeError(
                f"{len(prompts)} images at once do not fit into the memory of {model.device}; repeat with a smaller batch_size."
            ) from error
        except Exception as error:  # Each pipeline checks its arguments in its own way.
            raise RuntimeError(f"{name} made no images of {prompts[0]!r}: {_brief(error)}") from error
        # Pipelines have two names for this output.
        flags = getattr(output, "nsfw_content_detected", None) or getattr(output, "nsfw_detected", None)
        return [_image(values, flag) for values, flag in zip(images, flags or [False] * len(images), strict=True)]

    return generate


def hush() -> None:
    """Silences all messages of the libraries except errors, for a command that shows its own progress. Call it first.

    Raises:
      ValueError: the extra is not installed.
    """
    # Set before the libraries are imported, since they read these variables only then. Values that the user has set are kept.
    for library in ("DIFFUSERS", "HF_HUB", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    warnings.filterwarnings("ignore", module="diffusers|huggingface_hub|transformers")
    _require_installed()
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def versions() -> str:
    """Returns the versions of the libraries that generate, for the record of a source."""
    return ", ".join(f"{library} {version(library)}" for library in ("diffusers", "transformers", "torch"))


def _image(values: np.ndarray, flagged: bool) -> Image.Image | str:
    """Returns the image of values `[height, width, channels]` in [0, 1], or the reason why there is no image."""
    if flagged:
        return "the pipeline's safety checker flagged it"
    if not np.isfinite(values).all():
        return "its values are not finite; some models overflow in float16, but not in bfloat16 or float32"
    # Values are rounded in the same way as the pipelines round them.
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
        # Only an allocation shows that the device exists: torch accepts the names of devices that the machine lacks.
        return str(torch.zeros(1, device=device).device)
    except Exception as error:  # RuntimeError, AssertionError or NotImplementedError, depending on the type of device.
        raise ValueError(f"Expected a device of this machine, such as cpu or cuda, got {device!r}: {_brief(error)}") from error


def _read_index(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / INDEX).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"Expected a pipeline of diffusers, as save_pretrained writes it, in {name}: {INDEX}: {_brief(error)}"
        ) from error


def _fetch_index(name: str, revision: str) -> dict[str, Any]:
    """Returns the index of a pipeline on the hub, so that it is checked before gigabytes are downloaded."""
    from diffusers import DiffusionPipeline

    # A path that does not exist must not be looked for on the hub. Names on the hub have at most one slash.
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or os.path.exists(name):
        raise ValueError(f"There is no folder {name}; name the folder of a pipeline, or a pipeline on the Hugging Face hub.")
    try:
        return dict(DiffusionPipeline.load_config(name, revision=revision or None))
    except Exception as error:
        raise _unreachable(name, error) from error


def _download(name: str, revision: str) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(name, revision=revision or None, use_safetensors=True))
    except Exception as error:  # It comes from the network, the disk or the hub, or safetensors are missing.
        raise _unreachable(name, error) from error


def _unreachable(name: str, error: Exception) -> ValueError:
    return ValueError(
        f"There is no folder {name}, and no pipeline of this name with safetensors weights came from the Hugging Face hub; "
        f"check the name and the network, or name the folder of a downloaded pipeline: {_brief(error)}"
    )


def _pipeline_class(index: dict[str, Any], name: str) -> type:
    import diffusers

    kind = index.get("_class_name")
    found = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(f"{name} has the class {kind!r}, which diffusers {version('diffusers')} lacks; upgrade diffusers.")
    return found


def _require_no_code(folder: Path, index: dict[str, Any], name: str) -> None:
    """Raises ValueError if a pipeline contains Python files, which some versions of diffusers would run."""
    from diffusers import pipelines

    parts = {part: value[0] for part, value in index.items() if isinstance(value, list) and value and value[0]}
    for part, library in parts.items():
        foreign = library not in ("diffusers", "transformers") and not hasattr(pipelines, str(library))
        if foreign or any((folder / part).glob("*.py")):
            raise ValueError(f"The {part} of {name} has its own code ({library}), which is not run; name another pipeline.")


def _digest(folder: Path) -> str:
    """Returns a digest of the names and the content of all files that a pipeline consists of."""
    digest = hashlib.sha256()
    # Sorted, since folders list files in any order.
    for path in sorted(folder.rglob("*")):
        if path.suffix in _PARTS and path.is_file():
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{printable(path.relative_to(folder))}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _brief(error: Exception) -> str:
    """Returns the message of another library's error in one line."""
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
