"""Labels from the names of classes in lists and manifests: one class per image, or any number of classes.

A name passes through three steps: a cell of any type becomes text (`cell_text`), text becomes the one spelling of its class
(`class_name`), and the sorted names become the numbers that a run learns (`encode_labels`, `encode_multi_labels`).
"""

import numbers
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

# Separates the names of one image. A Parquet list of names needs no separator, so that its names may contain this one.
SEPARATOR = ";"
# Texts that pandas reads or writes as a missing value. `is_missing` checks NaN itself.
_MISSING = frozenset(
    ("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaT", "None")
).union(("n/a", "null"))


def is_missing(value: Any) -> bool:
    """Returns whether a cell is missing: None, NaN, a blank text, or a text that pandas reads as a missing value.

    Example:
      >>> [is_missing(value) for value in (None, float("nan"), " ", "nan", "None", "none", "0", 0)]
      [True, True, True, True, True, False, False, False]
    """
    if isinstance(value, str):
        text = value.strip()
        return text in _MISSING or text.lstrip("+-").lower() == "nan"
    # NaN and pandas' NaT are the only values that differ from themselves.
    return value is None or bool(value != value)


def cell_text(value: Any) -> str:
    """Returns the text of a cell of any type, without the spaces around it; 1.0 becomes "1".

    Example:
      >>> [cell_text(value) for value in (" cat ", b"cat", 1.0, 0.5, 1, True)]
      ['cat', 'cat', '1', '0.5', '1', 'True']

    Raises:
      ValueError: the cell is neither text nor number, is not finite, or has a line break. The message continues a sentence that
        begins with the row and the file.
    """
    try:
        text = value.decode() if isinstance(value, bytes) else value
        # Lists are read with surrogates in place of bytes that are not UTF-8; encoding the text detects them.
        text = text.encode().decode() if isinstance(text, str) else text
    except UnicodeError as error:
        raise ValueError(f"holds text that is not UTF-8 ({value!r}); save the file as UTF-8") from error
    # bool is a number for Python, but True is a name in a list of labels.
    if isinstance(text, numbers.Number) and not isinstance(text, bool | np.bool_):
        if not np.isfinite(float(text)):
            raise ValueError(f"holds {text}; expected a name or a whole number")
        text = str(int(text)) if text == int(text) else str(text)
    elif isinstance(text, bool | np.bool_):
        text = str(bool(text))
    elif not isinstance(text, str):
        raise ValueError(f"holds a {type(value).__name__} ({value!r}); expected text or a number")
    text = text.strip()
    # The usual cause is a quotation mark that was never closed, so that the following rows belong to this cell.
    if re.search(r"[\n\r\0]", text):
        raise ValueError(f"holds a line break or a null character ({text[:60]!r}); look for an unclosed quotation mark")
    return text


# Zero-width space, word joiner, byte order mark and soft hyphen: they do not change how a name looks in print.
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u2060\ufeff\u00ad"))


def class_name(text: str) -> str:
    """Returns the one spelling of a class's name that all sources share. Names that look alike in print are one class.

    Unicode is composed (NFC), every run of white space becomes one space, and white space at the ends is removed. Names that
    differ in case stay different.

    Example:
      >>> class_name(" cafe\u0301\u00a0au  lait") == "caf\u00e9 au lait"
      True
    """
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split()) or text


def gather_spellings(names: Iterable[str]) -> dict[str, list[str]]:
    """Returns the spellings of each class by its `class_name`, each spelling once."""
    spellings: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        spellings.setdefault(class_name(name), []).append(name)
    return spellings


def spelling_notes(spellings: Mapping[str, Collection[str]]) -> list[str]:
    """Returns notes on spellings that were joined into one class, and on classes whose names differ in case only.

    Args:
      spellings: by class, as `gather_spellings` returns them.

    Example:
      >>> spelling_notes(gather_spellings(["cat", "Cat", "cat "]))[0]
      "the names 'cat', 'cat ' look alike and are one class, cat"
    """
    notes = [
        f"the names {', '.join(map(ascii, texts))} look alike and are one class, {name}"
        for name, texts in spellings.items()
        if len(texts) > 1
    ]
    by_case: dict[str, list[str]] = {}
    for name in spellings:
        by_case.setdefault(name.casefold(), []).append(name)
    return notes + [
        f"{', '.join(names)} differ only in case and are different classes; rename one if they are the same"
        for names in by_case.values()
        if len(names) > 1
    ]


def label_name(value: Any) -> str:
    """Returns the name of the class in a cell: the `class_name` of its `cell_text`.

    Raises:
      ValueError: the value is missing, or `cell_text` refuses it.
    """
    # Without the invisible characters, a blank text or another missing value may remain.
    text = "" if is_missing(value) else cell_text(value).translate(_INVISIBLE)
    if is_missing(text):
        raise ValueError(
            f"has no label: {value!r} is a missing value; give every image a label or remove its row, and rename a class "
            "that has this name"
        )
    return class_name(text)


def label_names(values: Sequence, where: str) -> list[str]:
    """Returns the name of each image's class.

    If all labels are whole numbers, 1.0 and 1 are one class, named 1. Programs that keep missing values as NaN turn a column of
    whole numbers into a floating-point column, which must not change the classes.

    Args:
      values: the label of each image, of any type that a Parquet column can have.
      where: the source and the file, for messages.

    Example:
      >>> label_names([" cat", b"dog"], "list.csv"), label_names(["1.0", "2"], "list.csv")
      (['cat', 'dog'], ['1', '2'])

    Raises:
      ValueError: a label is missing or cannot be a name, or one number has two spellings in a list that also has names.
    """
    names = []
    for row, value in enumerate(values, 1):
        try:
            names.append(label_name(value))
        except ValueError as error:
            raise ValueError(f"{where}: row {row:,}, column 'label', {error}.") from error
    # If the labels are names and numbers, "1.0" may be a name, such as a version.
    whole = {name: name.partition(".")[0] for name in set(names) if re.fullmatch(r"-?\d+(\.0+)?", name)}
    if len(whole) == len(set(names)):
        return [whole[name] for name in names]
    twice = next((name for name in sorted(whole) if name != whole[name] and whole[name] in whole), None)
    if twice:
        raise ValueError(
            f"{where}: the labels {whole[twice]!r} and {twice!r} are one number in two spellings; use one of them."
        )
    return names


def split_labels(values: Sequence, where: str) -> list[list[str]]:
    """Returns the names of each image's classes, each name once.

    Args:
      values: for each image a list of names (Parquet), or one text in which `SEPARATOR` separates names. An empty list or text
        means that the image has none of the classes. Blanks around a name, and empty names, do not count.
      where: the source and the file, for messages.

    Raises:
      ValueError: a value is missing, so that its meaning is unknown; a list holds values that are not text; or no image has a
        class.

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
        raise ValueError(f"{where}: no image has a label; remove the column.")
    return split


def _split(value: Any) -> list[str]:
    parts = value
    if not isinstance(value, list):
        # An empty text means none of the classes. None, NaN and "nan" may also mean that the labels are unknown.
        if is_missing(value) and not (isinstance(value, str) and not value.strip()):
            raise ValueError(f"has no label: {value!r} is a missing value; write an empty text or list for none of the classes")
        parts = cell_text(value).split(SEPARATOR)
    wrong = next((part for part in parts if not isinstance(part, str) or (part.strip() and is_missing(class_name(part)))), "")
    if wrong != "":
        # A list of 0 and 1 with one number per class must not become the names "0" and "1".
        raise ValueError(f"has {wrong!r} in its list of labels; expected names of classes")
    return list(dict.fromkeys(class_name(cell_text(part)) for part in parts if part.strip()))


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Returns each name once, sorted as numbers if all names are whole numbers, and as text otherwise.

    Example:
      >>> sort_classes(["10", "9", "10"]), sort_classes(["10", "9", "x"])
      (('9', '10'), ('10', '9', 'x'))
    """
    different = set(names)
    numeric = all(re.fullmatch(r"-?\d+", name) for name in different)
    # The name is the second key: 1 and 01 are two names of one number, and their order would otherwise be arbitrary.
    return tuple(sorted(different, key=(lambda name: (int(name), name)) if numeric else None))


def encode_labels(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the sorted names of the classes, and for each image the position of its class among them.

    Args:
      names: the name of each image's class, from `label_names`.
    """
    classes = sort_classes(names)
    place = {text: label for label, text in enumerate(classes)}
    return classes, np.array([place[text] for text in names], np.int64)


def encode_multi_labels(names: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the sorted names of the classes, and uint8 `[images, classes]`: 1 for each class that an image has, else 0.

    Args:
      names: the names of each image's classes, from `split_labels`.
    """
    classes = sort_classes(text for texts in names for text in texts)
    place = {text: label for label, text in enumerate(classes)}
    images = np.repeat(np.arange(len(names)), [len(texts) for texts in names])
    return classes, indicators(images, [place[text] for texts in names for text in texts], (len(names), len(classes)))


def indicators(images: np.ndarray, classes: np.ndarray | Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """Returns uint8 `[images, classes]` with 1 at each pair (image, class), 0 elsewhere."""
    labels = np.zeros(shape, np.uint8)
    labels[images, classes] = 1
    return labels
