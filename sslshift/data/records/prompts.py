"""From a list of class names to the prompts that a model is asked with."""

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

# Images for prompts and seeds (of 63 bits), in their order; text instead of an image says why there is none.
Generate = Callable[[list[str], list[int]], Sequence[Image.Image | str]]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A model and how it is asked: with a prompt and a seed, all that decides an image.

    Args:
      model: its name or path, @, and what changes when it does: a commit or a digest.
      pipeline: kind of the model.
      steps: of its sampler; None: there is no such number.
      guidance: weight of the prompt (classifier-free guidance); None: there is no such number.
      height, width: pixels asked for; None: the model's own.
      dtype: of its arithmetic.
    """

    model: str
    pipeline: str
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    dtype: str = "float32"


class Request(NamedTuple):
    """One image that is asked for: the `number`-th of its class."""

    name: str
    number: int
    prompt: str
    seed: int

    @property
    def origin(self) -> str:
        return f"{self.name} #{self.number}"


def read_prompts(text: str, templates: Sequence[str] = ("a photo of a {}",)) -> dict[str, tuple[str, ...]]:
    """The prompts of every class, in the order of the classes.

    Args:
      text: class names separated by ";" (one alone may end in it), or the path of a text file (UTF-8) with one on each line, in
        which empty lines and lines that start with # say nothing. `class|prompt`, or with a tab for the |, is a class with a
        prompt of its own instead of the templates'; with several such entries it has several prompts.
      templates: the prompts of a class of which only the name is said, with {} where it goes.

    Example:
      >>> read_prompts("cat; dog|my dog Rex; dog|a dog asleep", ["a photo of a {}", "a sketch of a {}"])
      {'cat': ('a photo of a cat', 'a sketch of a cat'), 'dog': ('my dog Rex', 'a dog asleep')}

    Raises:
      ValueError: there is no class, one is said twice, an entry lacks its name or prompt, a template lacks its {}, or the
        file cannot be read.
    """
    for template in templates or [""]:
        if "{}" not in template:
            raise ValueError(f"A template has {{}} where the class name goes, as in 'a photo of a {{}}'; {template!r} has not.")
    place, entries = _entries(text)
    prompts: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, *own = (part.strip() for part in re.split(r"[\t|]", entry, maxsplit=1))
        if not name or own == [""]:
            raise ValueError(f"{place}: {entry!r} lacks its class name or its prompt; write class|prompt.")
        name = class_name(name)
        asked = tuple(own) or tuple(template.replace("{}", name) for template in templates)
        if set(asked) & set(prompts.get(name, ())):
            raise ValueError(f"{place}: the class {name!r} is there twice with the same prompt; name it once.")
        prompts[name] = prompts.get(name, ()) + asked
    if not prompts:
        raise ValueError(f"{place}: there is no class name; write 'cat; dog', or one on each line of a text file.")
    return prompts


def image_seed(seed: int, name: str, number: int) -> int:
    """The seed of one image, of 63 bits: the same whatever other classes there are.

    Example:
      >>> image_seed(0, "cat", 0) == image_seed(0, "cat", 0), image_seed(0, "cat", 0) == image_seed(0, "cat", 1)
      (True, False)
    """
    digest = hashlib.blake2b(f"{seed}\0{name}\0{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def _entries(text: str) -> tuple[str, list[str]]:
    """Where the entries stand, for people, and the entries."""
    path = os.path.expanduser(text)
    if ";" in text or not (os.path.exists(path) or path.lower().endswith((".txt", ".csv", ".tsv"))):
        return "The prompts", [entry.strip() for entry in text.split(";") if entry.strip()]
    if not os.path.isfile(path):
        raise ValueError(f"There is no text file {printable(path)} to read class names from; a class of that name ends in ';'.")
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{printable(path)} cannot be read as a text file in UTF-8: {error}.") from error
    if path.lower().endswith(".csv") and any("," in line and not re.search(r"[\t|]", line) for line in lines):
        raise ValueError(f"{printable(path)} separates by commas, which names and prompts may contain; write class|prompt.")
    return printable(path), [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
