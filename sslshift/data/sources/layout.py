"""The meaning of the folders below a root: classes, or the splits of a task with class folders in each split.

The paths of the images decide. If they allow both meanings, an error names both and says how to write each one: a guess could
give every image a wrong label.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from sslshift.data.sources.labels import class_name
from sslshift.data.sources.uri import Uri

_SPLITS = {
    "train": ("train", "training", "trn", "trainval"),
    "validation": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation", "holdout", "heldout"),
}
_SPLIT_BY_WORD = {word: split for split, words in _SPLITS.items() for word in words}

# The path of an image below a root, as the names of its folders and its own name.
_Parts = tuple[str, ...]


class SplitFolders(NamedTuple):
    """The split folders below a root.

    Attributes:
      folders: the folder of each split, relative to the root; empty if the folders are classes.
      notes: the assumptions that were made; sentences without a full stop.
    """

    folders: dict[str, str]
    notes: tuple[str, ...] = ()


class _Folder(NamedTuple):
    """A folder with images: whether it holds images directly, and its inner folders that hold images."""

    direct: bool
    inner: frozenset[str]


def find_splits(paths: Iterable[PurePath], uri: Uri) -> SplitFolders:
    """Returns the folders of the splits below a root.

    Split folders are named train, val and test, or by a usual synonym, in upper or lower case. Their names may have a common
    part (`seg_train`, `seg_test`). They may be below one folder that holds all images, such as `images`.

    Args:
      paths: paths of the images, relative to the root.
      uri: URI of the root, for messages.

    Raises:
      ValueError: the folders can be both splits and classes, or neither.
    """
    parts = [path.parts for path in paths]
    root, parts = _below_single(parts)
    folders = _folders(parts)
    inside = _within(uri, root)
    splits = _split_family(folders, inside)
    others = sorted(folders.keys() - splits.keys())
    if not splits:
        _require_no_splits_within(folders, inside)
        _require_several_classes(parts, inside)
        return SplitFolders({}, _same_folders_note(folders, inside))
    kinds = set(splits.values())
    # If images are directly in the folders, there are no class folders below them: these folders can only be classes.
    if all(folders[name].direct for name in splits):
        return _flat(splits, others, inside)
    # Beside other folders, "train" may be a class such as a vehicle: only the user can decide.
    if others:
        raise ValueError(
            _both({_below_wrapper(name, split, parts): split for name, split in splits.items()}, others, parts, inside)
        )
    _require_usable(splits, folders, inside)
    if len(splits) == 1:
        name = next(iter(splits))
        # The validation and test splits are drawn from its images.
        return SplitFolders(
            {"train": _joined(root, name)}, (f"all labelled images are in {name}; the splits are drawn from them",)
        )
    where = {split: _below_wrapper(name, split, parts) for name, split in splits.items()}
    _require_common_classes(where, parts, inside)
    notes = []
    if root:
        notes.append(f"the splits are the folders {_listed(sorted(splits))} of {'/'.join(root)}")
    loose = sum(len(each) == 1 for each in parts)
    # Reported, since images at the root are often a part that the user forgot to sort.
    if loose:
        notes.append(f"{loose:,} images beside the split folders {_listed(sorted(splits))} are in no split, and are not used")
    # A single held-out split serves as the test split: results must not depend on images that chose hyperparameters.
    if "test" not in kinds:
        notes.append(
            f"{'/'.join(where['validation'])} is the test split, and validation images are drawn from the training split"
        )
        where["test"] = where.pop("validation")
    return SplitFolders({split: _joined(root, *where[split]) for split in _SPLITS if split in where}, tuple(notes))


def require_no_splits(paths: Iterable[PurePath], name: str, root: str = "") -> None:
    """Raises ValueError if the first folders of images are the splits of a task and would become classes.

    Args:
      paths: paths of the images, relative to the root.
      name: the source or flag that expects class folders, for the message.
      root: the root as a URI or path, for the message; empty for an archive, whose folders have no URI.
    """
    folders = _folders([path.parts for path in paths])
    families = _families(folders)
    named_after_splits = len(families) == 1 and all(map(_split_word, folders))
    # Split folders contain class folders. If one of the folders contains images directly, the folders are the classes.
    if not (named_after_splits and _kinds_within(folders)) or any(folder.direct for folder in folders.values()):
        return
    # Splits share class folders. Without a common class folder, these may be classes that have the names of splits by chance.
    inner = {each: set(map(class_name, folder.inner)) for each, folder in folders.items()}
    train = next(each for each in folders if _split_word(each)[0] == "train")
    common = inner[train] & set().union(*(names for each, names in inner.items() if each != train))
    if common:
        remedy = (
            f"Name one split, as in {root}/{train}, or name the root without labels=folder as a task"
            if root
            else f"Unpack the archive, and import the folder of each split, as in {train}, by itself"
        )
        raise ValueError(
            f"{name}: the folders {_listed(sorted(folders))} are splits with the same class folders "
            f"({_listed(sorted(common))}); labels=folder would make the splits the classes. {remedy}. If "
            f"{_listed(sorted(folders))} are the classes, list the images with these labels in a csv: file."
        )


def split_note(classes: Collection[str] | None) -> list[str]:
    """Returns a note if all or some of the classes have the names of a task's splits."""
    family = _family_within(classes or ())
    if not family:
        return []
    these = "these" if len(family) == len(classes) else _listed(sorted(family))
    return [
        f"the classes are {_listed(classes)}, the first folders; if {these} are splits, name each split's folder as a source"
    ]


def _folders(parts: Sequence[_Parts]) -> dict[str, _Folder]:
    """Returns the first folders of the images by name, sorted."""
    direct: dict[str, bool] = {}
    inner: dict[str, set[str]] = {}
    for each in parts:
        if len(each) > 1:
            direct[each[0]] = direct.get(each[0], False) or len(each) == 2
            inner.setdefault(each[0], set()).update(each[1:2] if len(each) > 2 else ())
    return {name: _Folder(direct[name], frozenset(inner[name])) for name in sorted(direct)}


def _below_single(parts: list[_Parts]) -> tuple[_Parts, list[_Parts]]:
    """Returns the path to the first folder that holds several folders or images directly, and the paths below it.

    The path is empty unless that folder holds split folders. Otherwise the first folder is a class, whose inner folders do not
    matter.
    """
    root: _Parts = ()
    below = parts
    while len(folders := _folders(below)) == 1 and not any(len(each) == 1 for each in below):
        ((name, folder),) = folders.items()
        if folder.direct:
            break
        root = (*root, name)
        below = [each[1:] for each in below]
        if len(_kinds_within(_folders(below))) > 1:
            return root, below
    return (), parts


def _split_word(name: str) -> tuple[str, str] | None:
    """Returns the split in a folder's name, and the name with * in its place; None if the name has no or several splits."""
    # "hold-out" is one word, whose hyphen must not separate it.
    name = re.sub(r"(?i)\b(h[oe]ld)[-_ ]out\b", r"\1out", name)
    # Words of a name: "TrainData" and "seg_train" have two words each; "trainstation" is one word, which is not a split.
    words = [match for match in re.finditer(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name) if match[0].lower() in _SPLIT_BY_WORD]
    # A name with two split words, such as "train_test", does not identify a split.
    if len(words) != 1:
        return None
    (word,) = words
    return _SPLIT_BY_WORD[word[0].lower()], f"{name[: word.start()]}*{name[word.end() :]}".lower()


def _families(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Returns the split of each folder that is named after a split, grouped by the rest of the name."""
    families: dict[str, dict[str, str]] = {}
    for name in names:
        word = _split_word(name)
        if word:
            families.setdefault(word[1], {})[name] = word[0]
    return families


def _split_family(folders: Mapping[str, _Folder], uri: Uri) -> dict[str, str]:
    """Returns the split of each split folder. A name with further words counts only if a group has several such names."""
    families = _families(folders)
    whole = {rest: family for rest, family in families.items() if "train" in family.values() and len(set(family.values())) > 1}
    # There are two tasks in one folder, such as train_a, test_a, train_b, test_b: joining them would mix their images.
    if len(whole) > 1:
        several = "; ".join(_listed(sorted(family)) for family in whole.values())
        raise ValueError(f"{uri}: there are several groups of split folders ({several}); name the folders of each split.")
    return next(iter(whole.values()), families.get("*", {}))


def _family_within(names: Iterable[str]) -> dict[str, str]:
    """Returns the split of each name in the first group that has training and another split; empty if no group has them."""
    families = _families(names).values()
    return next((each for each in families if "train" in each.values() and len(set(each.values())) > 1), {})


def _kinds_within(names: Iterable[str]) -> set[str]:
    return set(_family_within(names).values())


def _require_no_splits_within(folders: Mapping[str, _Folder], uri: Uri) -> None:
    with_splits = [name for name, folder in folders.items() if _kinds_within(folder.inner)]
    if with_splits:
        family = _kinds_within(folders[with_splits[0]].inner)
        names = sorted(name for name in folders[with_splits[0]].inner if (_split_word(name) or ("",))[0] in family)
        raise ValueError(
            f"{uri}: of the folders {_listed(sorted(folders))}, {_listed(with_splits)} contain split folders "
            f"({_listed(names)}). If the first folders are classes, move the split folders above them "
            f"({names[0]}/{with_splits[0]}/...), or list the images of each split in a csv: file; with {_with_labels(uri)} "
            "test images are drawn from all images of a class. "
            f"If {with_splits[0]} holds the task, name it: {_within(uri, (with_splits[0],))}."
        )


def _require_several_classes(parts: Sequence[_Parts], uri: Uri) -> None:
    """Raises ValueError if one folder holds all images and its inner folders are probably the classes."""
    at: _Parts = ()
    while len(folders := _folders(parts)) == 1 and not any(len(each) == 1 for each in parts):
        ((name, folder),) = folders.items()
        if folder.direct:
            return
        at = (*at, name)
        parts = [each[1:] for each in parts]
        if len(folder.inner) > 1:
            raise ValueError(
                f"{uri}: all images are in the single folder {'/'.join(at)}, but a task needs at least two classes. If the "
                f"folders in it ({_listed(sorted(folder.inner))}) are the classes, name it: {_within(uri, at)}."
            )


def _same_folders_note(folders: Mapping[str, _Folder], uri: Uri) -> tuple[str, ...]:
    """Returns a note if all folders hold the same inner folders, like the class folders in folds, years or domains."""
    inner = {frozenset(map(class_name, folder.inner)) for folder in folders.values()}
    if len(folders) < 2 or len(inner) > 1 or any(folder.direct for folder in folders.values()):
        return ()
    common = sorted(*inner)
    # One common folder, often called "images", cannot be the classes.
    if len(common) < 2:
        return ()
    names = sorted(folders)
    return (
        f"the classes are {_listed(names)}, the first folders, but each of them holds the folders {_listed(common)}; if "
        f"{_listed(common)} are the classes, name one folder, as in {_within(uri, names[:1])}, or list the images with "
        "their labels in a csv: file",
    )


def _flat(splits: Mapping[str, str], others: Sequence[str], uri: Uri) -> SplitFolders:
    """Returns or refuses split folders that hold images directly: the images have no labels unless the folders are classes."""
    # Folders such as train and test1 count too, although the rests of their names differ.
    called = sorted([*splits, *(name for name in others if _split_word(name))])
    names = _listed(called)
    kinds = {_split_word(name)[0] for name in called}
    if len(called) < len(splits) + len(others) or (others and not ("train" in kinds and len(kinds) > 1)):
        alone = len(splits) == 1
        taken = "counts as a class" if alone else "count as classes"
        why = "its images are" if alone else "their images are"
        return SplitFolders(
            {}, (f"{_listed(sorted(splits))} {taken}, like {_listed(others)}, since {why} in no class folders",)
        )
    if len(called) == 1:
        return SplitFolders({})
    raise ValueError(
        f"{uri}: {names} hold images that are in no class folders. If {names} are the classes, write {_with_labels(uri)}. If "
        "they are splits, sort the images of each into class folders, or list them with their labels in a csv: file for each."
    )


def _both(splits: Mapping[_Parts, str], others: Sequence[str], parts: Sequence[_Parts], uri: Uri) -> str:
    """Returns the error for split folders beside other folders, which can be classes together."""
    names = _listed(sorted(at[0] for at in splits))
    # A split with images outside of class folders has no labels, so it cannot be suggested.
    given = {split: str(_within(uri, at)) for at, split in splits.items() if not any(each[:-1] == at for each in parts)}
    task = [given.get("train", f"{uri}/..."), *(f"{split}={at}" for split, at in given.items() if split != "train")]
    return (
        f"{uri}: {names} can be splits, or classes like {_listed(others)} beside them. If they are splits, name each as in "
        f"'{'; '.join(task)}'. If all of these folders are classes, write {_with_labels(uri)}."
    )


def _require_usable(splits: Mapping[str, str], folders: Mapping[str, _Folder], uri: Uri) -> None:
    """Raises ValueError if a split has two folders, a split has images outside class folders, or there is no training split."""
    # Each check ends with a text that can be pasted into --task.
    for split in _SPLITS:
        twice = sorted(name for name, each in splits.items() if each == split)
        if len(twice) > 1:
            named = {each: name for name, each in sorted(splits.items(), reverse=True)}
            test = named.get("test", named.get("validation"))
            task = str(_within(uri, (named.get("train", "..."),))) + (f"; test={_within(uri, (test,))}" if test else "")
            raise ValueError(
                f"{uri}: the folders {_listed(twice)} can each be the {split} split; name the folder of each split, as in "
                f"'{task}'."
            )
    flat = sorted(name for name in splits if folders[name].direct)
    if flat:
        sorted_ = sorted(name for name in splits if not folders[name].direct)
        raise ValueError(
            f"{uri}: the images directly in {_listed(flat)} are in no class folder and have no labels, but "
            f"{_listed(sorted_)} {'has' if len(sorted_) == 1 else 'have'} class folders. Sort these images into class "
            f"folders, or name the splits that have them, as in "
            f"'{_within(uri, (sorted_[0],))}'. If all of these folders are classes, write {_with_labels(uri)}."
        )
    if "train" not in splits.values():
        raise ValueError(
            f"{uri}: there is no training split beside {_listed(sorted(splits))}; name the folder of each split, as in "
            f"'folder:TRAIN; test={_within(uri, (next(iter(splits)),))}'. If these folders are classes, write "
            f"{_with_labels(uri)}."
        )


def _below_wrapper(name: str, split: str, parts: Sequence[_Parts]) -> _Parts:
    """Returns the folder of a split that holds its class folders: `train`, or `train/images`, or `train/train`."""
    folders = _folders([each[1:] for each in parts if each[0] == name])
    if len(folders) == 1:
        ((inner, folder),) = folders.items()
        word = _split_word(inner)
        if not folder.direct and (inner.lower() in ("images", "image", "imgs", "img", "data") or (word and word[0] == split)):
            return (name, inner)
    return (name,)


def _require_common_classes(where: Mapping[str, _Parts], parts: Sequence[_Parts], uri: Uri) -> None:
    """Raises ValueError if a split has no class folder in common with training: the folders are then probably not splits."""
    classes = {
        split: {class_name(each[len(at)]) for each in parts if each[: len(at)] == at and len(each) > len(at) + 1}
        for split, at in where.items()
    }
    for split, names in classes.items():
        # Classes are matched by name between splits: without a common class, every test label would be unknown.
        if not names & classes["train"]:
            one = "/".join(where["train"])
            other = "/".join(where[split])
            raise ValueError(
                f"{uri}: {one} has the folders {_listed(sorted(classes['train']))}, and {other} has {_listed(sorted(names))}. "
                f"If {one} and {other} are splits, their class folders must have the same names. If they are classes, write "
                f"{_with_labels(uri)}."
            )


def _within(uri: Uri, folders: Sequence[str]) -> Uri:
    return dataclasses.replace(uri, path="/".join((uri.path.rstrip("/") or "", *folders))) if folders else uri


def _with_labels(uri: Uri) -> Uri:
    return uri.with_options(labels="folder")


def _joined(root: _Parts, *folders: str) -> str:
    return "/".join((*root, *folders))


def _listed(names: Collection[str], shown: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
