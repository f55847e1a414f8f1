"""From the names of classes, as lists and manifests hold them, to labels: one class of each image, or any number."""

import numbers
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Between the names of one image. Names that contain it are possible in Parquet lists, which need no separator.
SEPARATOR = ";"
# Texts that pandas.read_csv takes for a missing value, and those that its missing values become as text; NaN is apart.
_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaT", "None")
).union(("n/a", "null"))


def is_missing(value: Any) -> bool:
    """Returns whether a cell says nothing: None, NaN, a text of spaces, or one that pandas reads as a missing value.

    Example:
      >>> [is_missing(value) for value in (None, float("nan"), " ", "nan", "None", "none", "0", 0)]
      [True, True, True, True, True, False, False, False]
    """
    if isinstance(value, str):
        text = value.strip()
        return text in _MISSING or text.lstrip("+-").lower() == "nan"
    # Of all values only those that stand for a missing one differ from themselves.
    return value is None or bool(value != value)


def cell_text(value: Any) -> str:
    """Returns the text of a cell of any type, without the spaces around it; a whole number has no fraction.

    Example:
      >>> [cell_text(value) for value in (" cat ", b"cat", 1.0, 0.5, 1, True)]
      ['cat', 'cat', '1', '0.5', '1', 'True']

    Raises:
      ValueError: it is no text or number, is not finite, or has a line break; the message goes on after "row N of FILE".
    """
    try:
        text = value.decode() if isinstance(value, bytes) else value
        text = text.encode().decode() if isinstance(text, str) else text
    except UnicodeError as error:
        raise ValueError(f"holds text that is not UTF-8 ({value!r}); save the file as UTF-8") from error
    if isinstance(text, numbers.Number) and not isinstance(text, bool | np.bool_):
        if not np.isfinite(float(text)):
            raise ValueError(f"holds {text}; expected a name or a whole number")
        text = str(int(text)) if text == int(text) else str(text)
    elif isinstance(text, bool | np.bool_):
        text = str(bool(text))
    elif not isinstance(text, str):
        raise ValueError(f"holds a {type(value).__name__} ({value!r}); expected text or a number")
    text = text.strip()
    if re.search(r"[\n\r\0]", text):
        raise ValueError(f"holds a line break or a NUL in one value ({text[:60]!r}); look for a stray quotation mark")
    return text


# Zero-width space, word joiner, byte order mark and soft hyphen: a name with them prints as one without.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def class_name(text: str) -> str:
    """Returns the one spelling of a class's name, by which all sources know it: names that print alike are one class.

    Unicode is composed (NFC), white space is one plain space, and none at the ends. Names that differ in case are different.

    Example:
      >>> class_name(" cafe\u0301\u00a0au  lait") == "caf\u00e9 au lait"
      True
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split()) or text


def gather_spellings(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns how each class is spelled, by its `class_name`, each spelling once."""
    spellings: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        spellings.setdefault(class_name(name), []).append(name)
    return spellings


def spelling_notes(spellings: Mapping[str, Collection[str]]) -> list[str]:
    """Returns notes on names of classes that were joined, and on those that look like one class and were not.

    Args:
      spellings: by class, as `gather_spellings` gives them.

    Example:
      >>> spelling_notes(gather_spellings(["cat", "Cat", "cat "]))[0]
      "the names 'cat', 'cat ' print alike and are one class, cat"
    """
    notes = [
        f"the names {', '.join(map(ascii, texts))} print alike and are one class, {name}"
        for name, texts in spellings.items()
        if len(texts) > 1
    ]
    by_case: dict[str, list[str]] = {}
    for name in spellings:
        by_case.setdefault(name.casefold(), []).append(name)
    return notes + [
        f"{', '.join(names)} differ in case alone and are different classes; rename one if they are the same"
        for names in by_case.values()
        if len(names) > 1
    ]


def label_name(value: Any) -> str:
    """Returns the name of the class that a value names: the `class_name` of its `cell_text`.

    Raises:
      ValueError: the value is missing, or as `cell_text`.
    """
    # After the signs that nobody sees are taken out, nothing or another missing value may be left.
    text = "" if is_missing(value) else cell_text(value).translate(_INVISIBLE)
    if is_missing(text):
        raise ValueError(
            f"has no label: {value!r} means a missing value; give every image a label or leave the image out, and rename "
            "a class that is called so"
        )
    return class_name(text)


def label_names(values: Sequence, where: str) -> list[str]:
    """Returns the name of each image's class.

    Where all labels are whole numbers, 1.0 and 1 are one class, called 1: programs that keep missing values as NaN turn a
    column of whole numbers into floating-point ones, which must not make other classes of them.

    Args:
      values: of each image, of any type that a Parquet column can have.
      where: the source and the file, for messages.

    Example:
      >>> label_names([" cat", b"dog"], "list.csv"), label_names(["1.0", "2"], "list.csv")
      (['cat', 'dog'], ['1', '2'])

    Raises:
      ValueError: an image has no label or something that is no name, or names and numbers are mixed and a number among them
        has two spellings.
    """
    names = []
    for row, value in enumerate(values, 1):
        try:
            names.append(label_name(value))
        except ValueError as error:
            raise ValueError(f"{where}: row {row:,}, column 'label', {error}.") from error
    whole = {name: name.partition(".")[0] for name in set(names) if re.fullmatch(r"-?\d+(\.0+)?", name)}
    if len(whole) == len(set(names)):
        return [whole[name] for name in names]
    twice = next((name for name in sorted(whole) if name != whole[name] and whole[name] in whole), None)
    if twice:
        raise ValueError(f"{where}: labels {whole[twice]!r} and {twice!r} are one number in two spellings; choose one of them.")
    return names


def split_labels(values: Sequence, where: str) -> list[list[str]]:
    """Returns the names of each image's classes, each name once.

    Args:
      values: of each image a list of names (Parquet), or one text in which `SEPARATOR` stands between them; no name is none
        of the classes. Spaces around a name do not count, nor does a name that is empty.
      where: the source and the file, for messages.

    Raises:
      ValueError: a value is missing (that is not known to be none of the classes) or lists something else than text, or no
        image has a class.

    Example:
      >>> split_labels(["cat; dog", "", "dog;"], "csv:list.csv")
      [['cat', 'dog'], [], ['dog']]
    """
    split = []
    for row, value in enumerate(values, 1):
        try:
            split.append(_split(value))
        except ValueError as error:
            raise ValueError(f"{where}: row {row:,}, column 'label', {error}.") from error
    if not any(split):
        raise ValueError(f"{where}: no image has a label; leave the column out.")
    return split


def _split(value: Any) -> list[str]:
    parts = value
    if not isinstance(value, list):
        # An empty text is none of the classes; None, NaN and "nan" are not known to be.
        if is_missing(value) and not (isinstance(value, str) and not value.strip()):
            raise ValueError(f"has no label: {value!r} means a missing value; an empty text or list says: none of the classes")
        parts = cell_text(value).split(SEPARATOR)
    wrong = next((part for part in parts if not isinstance(part, str) or (part.strip() and is_missing(class_name(part)))), "")
    if wrong != "":
        # A list of 0 and 1, one for each class, would be taken for names.
        raise ValueError(f"has {wrong!r} in its list of labels; a list holds names of classes")
    return list(dict.fromkeys(class_name(cell_text(part)) for part in parts if part.strip()))


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Each name once, in order; numbers in that of numbers.

    Example:
      >>> sort_classes(["10", "9", "10"]), sort_classes(["10", "9", "x"])
      (('9', '10'), ('10', '9', 'x'))
    """
    different = set(names)
    numeric = all(re.fullmatch(r"-?\d+", name) for name in different)
    # 1 and 01 are two names of one number.
    return tuple(sorted(different, key=(lambda name: (int(name), name)) if numeric else None))


def encode_labels(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns names of the classes as `sort_classes` gives them, and each image's label as its class's place among them.

    Args:
      names: of each image's class, by `label_names`.
    """
    classes = sort_classes(names)
    place = {text: label for label, text in enumerate(classes)}
    return classes, np.array([place[text] for text in names], np.int64)


def encode_multi_labels(names: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns names of the classes as `sort_classes` gives them, and uint8 0/1 `[images, classes]`: which an image has.

    Args:
      names: of each image's classes, by `split_labels`.
    """
    classes = sort_classes(text for texts in names for text in texts)
    place = {text: label for label, text in enumerate(classes)}
    images = np.repeat(np.arange(len(names)), [len(texts) for texts in names])
    return classes, indicators(images, [place[text] for texts in names for text in texts], (len(names), len(classes)))


def indicators(images: np.ndarray, classes: np.ndarray | Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """uint8 `[images, classes]` with 1 at each pair (image, class), 0 elsewhere."""
    labels = np.zeros(shape, np.uint8)
    labels[images, classes] = 1
    return labels
