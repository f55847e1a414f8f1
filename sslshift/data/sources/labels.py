"""From the names of classes, as lists and manifests hold them, to labels: one class of each image, or any number."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# Between the names of one image. Names that contain it are possible in Parquet lists, which need no separator.
SEPARATOR = ";"


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


def encode_labels(values: Sequence, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes as `sort_classes` gives them, and each image's label as its class's place among them.

    Raises:
      ValueError: an image has no label.
    """
    texts = ["" if value is None else str(value).strip() for value in values]
    if "" in texts:
        raise ValueError(f"{name}: image {texts.index(''):,} has no label; give all images one, or leave the column out.")
    classes = sort_classes(texts)
    place = {text: label for label, text in enumerate(classes)}
    return classes, np.array([place[text] for text in texts], np.int64)


def is_multi_label(rows: Mapping[str, Sequence], labels: str | None, name: str) -> bool:
    """Whether the column `label` of a list says of each image any number of classes.

    Args:
      rows: the list, as `read_list` gives it.
      labels: what was asked for: "multi", "single", or neither; then a column of lists is multi-label and another is not.
      name: of the source.

    Raises:
      ValueError: "multi" and there is no such column, or "single" and it holds lists.
    """
    if labels == "multi" and "label" not in rows:
        raise ValueError(f"{name}: labels=multi needs a column 'label', and the list has {', '.join(rows)}; add it.")
    listed = any(isinstance(value, list) for value in rows.get("label", ()))
    if listed and labels == "single":
        raise ValueError(f"{name}: column 'label' holds lists, of which labels=single cannot take one; leave the option out.")
    return listed or labels == "multi"


def split_labels(values: Sequence, name: str) -> list[list[str]]:
    """The names of each image's classes, each name once.

    Args:
      values: of each image a list of names (Parquet), or one text in which `SEPARATOR` stands between them; no name is none
        of the classes. Spaces around a name do not count, nor does a name that is empty.
      name: of the source.

    Raises:
      ValueError: a value is missing (that is not known to be none of the classes) or lists something else than text, or no
        image has a class.

    Example:
      >>> split_labels(["cat; dog", "", "dog;"], "csv:list.csv")
      [['cat', 'dog'], [], ['dog']]
    """
    split = []
    for image, value in enumerate(values):
        if value is None:
            raise ValueError(f"{name}: image {image:,} has no label; an empty text or list says: none of the classes.")
        parts = value if isinstance(value, list) else str(value).split(SEPARATOR)
        wrong = next((part for part in parts if not isinstance(part, str)), "")
        if wrong != "":
            # A list of 0 and 1, one for each class, would be taken for names.
            raise ValueError(f"{name}: image {image:,} has {wrong!r} in its list of labels; a list holds names of classes.")
        split.append(list(dict.fromkeys(part.strip() for part in parts if part.strip())))
    if not any(split):
        raise ValueError(f"{name}: no image has a label; leave the column out.")
    return split


def encode_multi_labels(values: Sequence, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes as `sort_classes` gives them, and uint8 0/1 `[images, classes]`: which classes each image has.

    Raises:
      ValueError: as `split_labels`, whose `values` these are.
    """
    split = split_labels(values, name)
    classes = sort_classes(text for texts in split for text in texts)
    place = {text: label for label, text in enumerate(classes)}
    images = np.repeat(np.arange(len(split)), [len(texts) for texts in split])
    return classes, indicators(images, [place[text] for texts in split for text in texts], (len(split), len(classes)))


def indicators(images: np.ndarray, classes: np.ndarray | Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """uint8 `[images, classes]` with 1 at each pair (image, class), 0 elsewhere."""
    labels = np.zeros(shape, np.uint8)
    labels[images, classes] = 1
    return labels
