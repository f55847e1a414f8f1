"""Joins each image with the captions, URLs, licences and classes in its own sidecars, and never with those of another image."""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sslshift.data.decode import BrokenImageError
from sslshift.data.records.members import Member, read_place
from sslshift.data.sources.labels import is_missing, label_name
from sslshift.data.sources.manifest import ImageDescription

# Files that WebDataset and img2dataset write beside an image of the same name.
SUFFIXES = (".json", ".txt", ".cls")
# Largest size of a sidecar in bytes. No description of one image is larger, and a larger file could fill the memory.
_LARGEST = 1 << 24

# Returns from a name the key that all files of one sample share.
_Key = Callable[[str], str]


def whole_stem(name: str) -> str:
    """Returns a path without its last extension: `a.0.png` and `a.0.cls` are one sample, and `a.1.png` is another."""
    return name.rpartition(".")[0]


def first_dot(name: str) -> str:
    """Returns a path up to the first dot of its file name, as in WebDataset: `a.0.png` and `a.1.png` are one sample."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


class Joined(NamedTuple):
    """An image with its sidecars by suffix, or the reason why they cannot be determined."""

    image: Member
    sidecars: dict[str, Member]
    fault: str = ""


def join(images: Iterable[Member], sidecars: Iterable[Member], twice: Container[str], key: _Key) -> Iterator[Joined]:
    """Yields every image, in order, with its sidecars.

    A sidecar with the whole stem of an image belongs to that image. If the key is shorter than the stem, a sidecar named by the
    key alone belongs to the only image with this key. If a sidecar could belong to several images, these images are refused.

    Args:
      images, sidecars: the members of one container.
      twice: names of images or sidecars that the container holds more than once.
      key: `whole_stem` or `first_dot`.
    """
    images = list(images)
    by_stem = _grouped(images, whole_stem)
    by_key = _grouped(images, key)
    # The order of the members does not matter, since all members are gathered before the first image is joined.
    beside = _grouped(sidecars, whole_stem)
    for image in images:
        stem = whole_stem(image.name)
        sample = key(image.name)
        own = beside.get(stem, [])
        of_sample = [] if sample == stem else beside.get(sample, [])
        alone = len(by_key[sample]) == 1
        found = [*own, *(of_sample if alone else ())]
        fault = ""
        if found and any(each.name in twice for each in (image, *found)):
            fault = f"{_names([image, *found])}: one of these names occurs twice, and it is unknown which files belong together"
        elif own and len(by_stem[stem]) > 1:
            fault = f"{_names(own)} could describe any of {_names(by_stem[stem])}; give every image its own name"
        elif of_sample and not alone and not (own and sample in by_stem):
            fault = (
                f"{_names(of_sample)} could describe any image of its WebDataset sample ({_names(by_key[sample])}); give every "
                "image its own name, without further dots"
            )
        suffixes = ["." + each.name.rpartition(".")[2].lower() for each in found]
        # Two sidecars such as a.cls and a.CLS contradict each other: either could be correct.
        if not fault and len(set(suffixes)) < len(suffixes):
            fault = f"{_names(found)} are several sidecars of one kind; keep one of them"
        yield Joined(image, {} if fault else dict(zip(suffixes, found, strict=True)), fault)


def _grouped(members: Iterable[Member], key: _Key) -> dict[Any, list[Member]]:
    groups: dict[Any, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member.name), []).append(member)
    return groups


def describe(origin: str, sidecars: Mapping[str, Member], *, classes: bool) -> ImageDescription:
    """Returns the caption, URL, licence and class that the sidecars of an image state.

    Args:
      origin: path of the image, for people.
      sidecars: the sidecars by suffix.
      classes: whether the class is read; otherwise it is None.

    Raises:
      ValueError: a sidecar cannot be read, or two contradict each other; the message begins with the name of a sidecar.
    """
    texts = {suffix: _text(member) for suffix, member in sidecars.items()}
    stated = _stated(sidecars[".json"].name, texts[".json"]) if ".json" in texts else {}
    names = [(sidecars[".json"].name, value) for key in ("label", "class", "cls") for value in stated.get(key, ())]
    if ".cls" in texts:
        names.append((sidecars[".cls"].name, texts[".cls"]))
    # Both spellings are common; with different values they contradict each other.
    licences = [(sidecars[".json"].name, value) for key in ("licence", "license") for value in stated.get(key, ())]
    first = {key: str(values[0]).strip() for key, values in stated.items()}
    return ImageDescription(
        origin,
        licence=_only(licences, lambda value: str(value).strip()),
        class_name=_only(names, label_name) if classes else None,
        caption=texts.get(".txt") or first.get("caption") or first.get("text"),
        url=first.get("url"),
    )


def _stated(name: str, text: str) -> dict[str, list[Any]]:
    """Returns the texts and numbers of a JSON file by keys in lower case, without missing values such as null."""
    try:
        # Objects are read as tuples of pairs: a dict would silently keep the last of two equal keys.
        content = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read as JSON: {error}") from error
    stated: dict[str, list[Any]] = {}
    for key, value in content if isinstance(content, tuple) else ():
        if isinstance(value, str | int | float) and not is_missing(value):
            stated.setdefault(key.lower(), []).append(value)
    return stated


def _only(values: Sequence[tuple[str, Any]], read: Callable[[Any], str]) -> str | None:
    """Returns the one text of all pairs (file, value); None if there is no value, or if all values are missing.

    Raises:
      ValueError: the values differ, or a value cannot be read.
    """
    found: dict[str, str] = {}
    for file, value in values:
        if is_missing(value):
            continue
        try:
            found.setdefault(read(value), file)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error
    if len(found) > 1:
        (one, file), (other, another) = list(found.items())[:2]
        raise ValueError(f"{file} states {one!r} and {another} states {other!r} for one image; keep one of them")
    return next(iter(found), None)


def _text(member: Member) -> str:
    """Returns the text of a sidecar. Only a caption may have bytes that are not UTF-8, since nothing depends on it."""
    size = member.place.size
    if size > _LARGEST:
        raise ValueError(f"{member.name} has {size:,} bytes, too many for the description of one image")
    try:
        # An empty sidecar is not an error, but an empty image is.
        content = read_place(member.place) if size else b""
        return content.decode("utf-8-sig", "replace" if member.name.lower().endswith(".txt") else "strict").strip()
    except BrokenImageError as error:
        raise ValueError(f"{member.name} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{member.name} is not UTF-8; save it as UTF-8") from error


def _names(members: Sequence[Member]) -> str:
    names = dict.fromkeys(PurePosixPath(member.name).name for member in members[:4])
    return ", ".join(names) + (f" and {len(members) - 4:,} more" if len(members) > 4 else "")
