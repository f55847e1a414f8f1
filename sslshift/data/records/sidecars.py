"""Gives each image the captions, URLs, licences and classes in the files beside it, and never those of another image."""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from sslshift.data.decode import BrokenImageError
from sslshift.data.records.members import Member, read_entry
from sslshift.data.sources.labels import is_missing, label_name

# Files that WebDataset and img2dataset put beside an image of the same name.
SUFFIXES = (".json", ".txt", ".cls")
_LARGEST = 1 << 24

# What the files of one sample share.
_Key = Callable[[str], str]


def whole_stem(name: str) -> str:
    """Returns a path without its last extension: `a.0.png` and `a.0.cls` are one sample, and `a.1.png` is another."""
    return name.rpartition(".")[0]


def first_dot(name: str) -> str:
    """Returns a path up to the first dot of its last part, WebDataset's key: `a.0.png` and `a.1.png` are of one sample."""
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


class Joined(NamedTuple):
    """An image with the sidecars that are its own, by suffix; or why it cannot be told which are."""

    image: Member
    sidecars: dict[str, Member]
    fault: str = ""


def join(images: Iterable[Member], sidecars: Iterable[Member], twice: Container[str], key: _Key) -> Iterator[Joined]:
    """Yields every image, in order, with its sidecars.

    A sidecar of an image's whole stem is its own. Where a key is shorter than that, a sidecar called by the key alone is of the
    one image of this key. Where a sidecar could be of several images, these are refused.

    Args:
      images, sidecars: of one container.
      twice: names, of either, that the container holds more than once.
      key: `whole_stem` or `first_dot`.
    """
    images = list(images)
    by_stem = _grouped(images, whole_stem)
    by_key = _grouped(images, key)
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
            fault = f"{_names([image, *found])}: one of these is there twice, and it is not known which belong together"
        elif own and len(by_stem[stem]) > 1:
            fault = f"{_names(own)} could describe any of {_names(by_stem[stem])}; give every image a name of its own"
        elif of_sample and not alone and not (own and sample in by_stem):
            fault = (
                f"{_names(of_sample)} could describe any image of its WebDataset sample ({_names(by_key[sample])}); give every "
                "image a name of its own, without further dots"
            )
        suffixes = ["." + each.name.rpartition(".")[2].lower() for each in found]
        if not fault and len(set(suffixes)) < len(suffixes):
            fault = f"{_names(found)} are several of one kind; keep one of them"
        yield Joined(image, {} if fault else dict(zip(suffixes, found, strict=True)), fault)


def _grouped(members: Iterable[Member], key: _Key) -> dict[Any, list[Member]]:
    groups: dict[Any, list[Member]] = {}
    for member in members:
        groups.setdefault(key(member.name), []).append(member)
    return groups


def describe(sidecars: Mapping[str, Member], *, classes: bool) -> dict[str, str | None]:
    """Returns what sidecars say of their image: `caption`, `url`, `licence` and `class`, None where they say nothing.

    Args:
      sidecars: by suffix.
      classes: whether the class is wanted; it is None otherwise.

    Raises:
      ValueError: one cannot be read, or they contradict each other; the message begins with its name.
    """
    texts = {suffix: _text(member) for suffix, member in sidecars.items()}
    said = _said(sidecars[".json"].name, texts[".json"]) if ".json" in texts else {}
    names = [(sidecars[".json"].name, value) for key in ("label", "class", "cls") for value in said.get(key, ())]
    if ".cls" in texts:
        names.append((sidecars[".cls"].name, texts[".cls"]))
    licences = [(sidecars[".json"].name, value) for key in ("licence", "license") for value in said.get(key, ())]
    first = {key: str(values[0]).strip() for key, values in said.items()}
    return {
        "caption": texts.get(".txt") or first.get("caption") or first.get("text"),
        "url": first.get("url"),
        "licence": _only(licences, lambda value: str(value).strip()),
        "class": _only(names, label_name) if classes else None,
    }


def _said(name: str, text: str) -> dict[str, list[Any]]:
    """The texts and numbers of a JSON file by names in lower case; null and other missing values say nothing."""
    try:
        # Tuples of pairs: a name that is there twice is seen.
        content = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be read as JSON: {error}") from error
    said: dict[str, list[Any]] = {}
    for key, value in content if isinstance(content, tuple) else ():
        if isinstance(value, str | int | float) and not is_missing(value):
            said.setdefault(key.lower(), []).append(value)
    return said


def _only(values: Sequence[tuple[str, Any]], read: Callable[[Any], str]) -> str | None:
    """The one thing that all values (file, value) say; None where there is none, or all are missing."""
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
        raise ValueError(f"{file} says {one!r} and {another} says {other!r} of one image; keep one of them")
    return next(iter(found), None)


def _text(member: Member) -> str:
    """The text of a sidecar; captions alone, by which nothing is joined, may have signs that are not UTF-8."""
    if member.size > _LARGEST:
        raise ValueError(f"{member.name} has {member.size:,} bytes, too many for what describes one image")
    try:
        content = read_entry({"size": member.size} | member.place) if member.size else b""
        return content.decode("utf-8-sig", "replace" if member.name.lower().endswith(".txt") else "strict").strip()
    except BrokenImageError as error:
        raise ValueError(f"{member.name} cannot be read: {error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{member.name} is not UTF-8; save it as UTF-8") from error


def _names(members: Sequence[Member]) -> str:
    names = dict.fromkeys(PurePosixPath(member.name).name for member in members[:4])
    return ", ".join(names) + (f" and {len(members) - 4:,} more" if len(members) > 4 else "")
