"""The requests for generated images: the prompts of every class, the seed of every image, and the settings of the model."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sslshift.data.sources.base import printable
from sslshift.data.sources.labels import class_name

# Returns an image for each prompt and seed (of 63 bits), in their order; a text is the reason why there is no image.
Generate = Callable[[list[str], list[int]], Sequence[Image.Image | str]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A model and its settings, which decide an image together with a prompt and a seed.

    Args:
      model: name or path of the model, @, and a commit or digest that changes when the model changes.
      pipeline: class of the model.
      steps: steps of the model's sampler; None if the model has no such number.
      guidance: weight of the prompt (classifier-free guidance); None if the model has no such weight.
      height, width: pixels of a generated image; None: the model's default.
      dtype: type of its arithmetic.
    """

    model: str
    pipeline: str
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    dtype: str = "float32"


class Request(NamedTuple):
    """A request for one image, image `number` of the class `name`."""

    name: str
    number: int
    prompt: str
    seed: int

    @property
    def origin(self) -> str:
        """The origin of the image in the manifest."""
        return f"{self.name} #{self.number}"


def read_prompts(text: str, templates: Sequence[str] = ("a photo of a {}",)) -> dict[str, tuple[str, ...]]:
    """Returns the prompts of every class, in the order of the classes.

    Args:
      text: class names separated by ";" (a single name may end in ";"), or the path of a text file (UTF-8) with one name on
        each line. Empty lines and lines that start with # are ignored. An entry `class|prompt` (a tab may replace the |) gives
        the class its own prompt instead of the templates; a class may have several such entries.
      templates: prompts of the classes without their own prompts, with {} in place of the class name.

    Example:
      >>> read_prompts("cat; dog|my dog Rex; dog|a dog asleep", ["a photo of a {}", "a sketch of a {}"])
      {'cat': ('a photo of a cat', 'a sketch of a cat'), 'dog': ('my dog Rex', 'a dog asleep')}

    Raises:
      ValueError: there is no class, a class occurs twice with the same prompt, an entry lacks its name or its prompt, a
        template lacks {}, or the file cannot be read.
    """
    # An empty list of templates is refused as well, since it would leave classes without prompts.
    for template in templates or [""]:
        if "{}" not in template:
            raise ValueError(f"Expected a template with {{}} for the class name, as in 'a photo of a {{}}', got {template!r}.")
    place, entries = _entries(text)
    prompts: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        # The entry is split only at the first separator, since a prompt may contain further separators.
        name, *own = (part.strip() for part in re.split(r"[\t|]", entry, maxsplit=1))
        if not name or own == [""]:
            raise ValueError(f"{place}: {entry!r} lacks its class name or its prompt; write class|prompt.")
        name = class_name(name)
        # `replace` and not `format`, which would fail at any other braces in a template.
        asked = tuple(own) or tuple(template.replace("{}", name) for template in templates)
        # The same prompt twice would make one class with twice the images of one prompt.
        if set(asked) & set(prompts.get(name, ())):
            raise ValueError(f"{place}: the class {name!r} occurs twice with the same prompt; remove one of the entries.")
        prompts[name] = prompts.get(name, ()) + asked
    if not prompts:
        raise ValueError(f"{place}: expected class names as in 'cat; dog', or one on each line of a text file, got none.")
    return prompts


def image_seed(seed: int, name: str, number: int) -> int:
    """Returns the seed of one image, of 63 bits. It does not depend on the other classes.

    Example:
      >>> image_seed(0, "cat", 0) == image_seed(0, "cat", 0), image_seed(0, "cat", 0) == image_seed(0, "cat", 1)
      (True, False)
    """
    # A hash rather than a counter: a new class must not move the seeds of the others.
    digest = hashlib.blake2b(f"{seed}\0{name}\0{number}".encode(), digest_size=8).digest()
    # 63 bits, since the manifest's column of seeds is signed.
    return int.from_bytes(digest) >> 1


def _entries(text: str) -> tuple[str, list[str]]:
    """Returns the place of the entries, for messages, and the entries."""
    path = os.path.expanduser(text)
    # Text with ";" is never a path. Text with one of these extensions is the name of a missing file, not a class.
    if ";" in text or not (os.path.exists(path) or path.lower().endswith((".txt", ".csv", ".tsv"))):
        return "The prompts", [entry.strip() for entry in text.split(";") if entry.strip()]
    if not os.path.isfile(path):
        raise ValueError(
            f"There is no text file {printable(path)} with class names; if this is the name of a class, write a ';' after it."
        )
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{printable(path)} cannot be read as a text file in UTF-8: {error}.") from error
    if path.lower().endswith(".csv") and any("," in line and not re.search(r"[\t|]", line) for line in lines):
        raise ValueError(
            f"{printable(path)} has commas as separators, which names and prompts may contain; write class|prompt."
        )
    return printable(path), [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
