"""The encoders in a checkpoint of a whole training: their prefixes, the choice of one, and the modules beside it."""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from sslshift.models.reference.layouts import plain_names
from sslshift.models.reference.naming import COUNTED, Recognised, Tensors, misfit, shown

# Modules that training code puts on an encoder: a tensor belongs to one if its name, after the encoder's prefix, begins with a
# word that matches.
_HEADS = re.compile(
    r"fc\d*|mlp|proj|pred|logit_scale|logit_bias|temperature|center|centroids|memory(_bank)?|(.+_)?(heads?|linear|classifiers?"
    r"|pooler|pre_logits|project(or|ion)s?|predict(or|ion)s?|prototypes?|neck|decoder|queue|masked_embed|mask_token|loss"
    r"|criterion)(_.+)?"
)
# An encoder inside one of these modules is only the first part of a larger network.
_NOT_APART = {"patch_embed", "patch_embeddings"}
_WRAPPER = {"module", "state_dict"}
_TEACHER = frozenset({"teacher", "momentum", "ema", "target", "key", "k", "averaged"})
_STUDENT = frozenset({"student", "online", "base", "query", "q", "source"})
_ROLES = (_TEACHER, _STUDENT)
# Parts are compared in pairs, so their number must be bounded.
_MOST_PARTS = 100
# If more names without dots than this have the same first word, they are reported as one.
_FLAT = 3
_LISTED = 20


class Dialect(NamedTuple):
    """An architecture under the names of one library.

    Args:
      title: usual name of the architecture.
      marks: names of tensors that every encoder of the dialect has and that show its size.
      recognise: function that returns the architecture of a part, from its tensors and the facts stated about it.
    """

    title: str
    marks: tuple[str, ...]
    recognise: Callable[["EncoderPart", Mapping[str, Any]], Recognised]


class EncoderPart(NamedTuple):
    """An encoder inside a file.

    Args:
      prefix: prefix that the names of all its tensors share; empty, or with a dot at its end.
      dialect: architecture and library that its names show.
      tensors: tensors by the names of the original architecture, without the prefix and without heads.
      heads: names of the tensors of heads on the encoder, without the prefix.
      written: names in the file by the names in `tensors`.
    """

    prefix: str
    dialect: Dialect
    tensors: Tensors
    heads: tuple[str, ...]
    written: Mapping[str, str]


def find_parts(tensors: Tensors, dialects: Sequence[Dialect]) -> list[EncoderPart]:
    """Returns the encoders of a file, at most one for each prefix, in the order of the prefixes.

    Raises:
      ValueError: two tensors have the same name without their wrappers, or the file holds only a part of an encoder (the
        message names the missing tensors).
    """
    written = plain_names(tensors)
    places = [(prefix, dialect) for dialect in dialects for prefix in _prefixes(written, dialect)]
    found = {prefix: dialect for prefix, dialect in places if _marks(written, dialect, prefix) == 1.0}
    if not found:
        _require_whole(written, dialects)
    return [_part(tensors, written, prefix, found[prefix], found) for prefix in sorted(found)]


def choose(parts: Sequence[EncoderPart], wanted: str | None) -> tuple[EncoderPart, str]:
    """Returns the chosen part and its name; the name is empty if the file has only one encoder.

    Args:
      parts: parts of one file, at least one.
      wanted: prefix of the part, a word of the prefix (`encoder_q`), or a role (`teacher`, `student`, `momentum`, `online`).

    Raises:
      ValueError: there are several parts and no name is given, or the name fits no part or several parts.
    """
    if len(parts) > _MOST_PARTS:
        raise ValueError(f"expected at most {_MOST_PARTS} encoders in a file, got {len(parts)}.")
    apart = [part for i, part in enumerate(parts) if not any(_same(part, other) for other in parts[:i])]
    names = dict(zip(_short_names([part.prefix for part in apart]), apart, strict=True))
    listing = ", ".join(f"{shown(name)} ({part.dialect.title}, {len(part.tensors)} tensors)" for name, part in names.items())
    if wanted is None and len(apart) > 1:
        ready = " or ".join(f"?part={quote(name)}" for name in names)
        raise ValueError(f"it holds {len(apart)} encoders: {listing}; add {ready} to its path to choose one.")
    found = apart if wanted is None else _matching(wanted, names, parts)
    if len(found) != 1:
        several = f"{len(found)} of its encoders match" if found else "none of its encoders matches"
        raise ValueError(f"{several} part={wanted}; it holds {listing}.")
    if len(apart) == 1:
        return found[0], ""
    return found[0], next((name for name, part in names.items() if part is found[0]), wanted or "")


def left_behind(part: EncoderPart, tensors: Tensors) -> list[str]:
    """Returns a text for each module of a file besides the encoder: the module's name and its number of tensors."""
    inside = set(part.written.values())
    rest = [name for name in tensors if name not in inside and not re.fullmatch(COUNTED, name)]
    modules = {start for name in inside for start in _starts(name)}
    flat = Counter(name.partition("_")[0] for name in rest if "." not in name)
    groups: Counter[str] = Counter()
    for name in rest:
        first = name.partition("_")[0]
        # The names in mmcv's averaged copy of the weights have no dots.
        together = "." not in name and flat[first] > _FLAT
        groups[f"{first}_..." if together else next(start for start in _starts(name) if start not in modules)] += 1
    texts = [f"{shown(label)} ({count} tensor{'s' if count > 1 else ''})" for label, count in sorted(groups.items())]
    more = len(texts) - _LISTED
    return [*texts[:_LISTED], *([f"{more} more modules"] if more > 0 else [])]


def _starts(name: str) -> list[str]:
    """Returns the prefixes of a name that consist of whole words, from the shortest to the name itself."""
    return list(itertools.accumulate(name.split("."), "{}.{}".format))


def _prefixes(written: Mapping[str, str], dialect: Dialect) -> set[str]:
    """Returns the prefixes that come before a mark of the dialect."""
    ends = {name.removesuffix(mark) for name in written for mark in dialect.marks if name.endswith(mark)}
    return {end for end in ends if (not end or end.endswith(".")) and not _NOT_APART & set(end.split("."))}


def _marks(written: Mapping[str, str], dialect: Dialect, prefix: str) -> float:
    return sum(prefix + mark in written for mark in dialect.marks) / len(dialect.marks)


def _require_whole(written: Mapping[str, str], dialects: Sequence[Dialect]) -> None:
    places = [(dialect, prefix) for dialect in dialects for prefix in sorted(_prefixes(written, dialect))]
    # A numbered module holds a block of some network; the names in it begin like those of an encoder.
    shares = [(*place, _marks(written, *place)) for place in places if not re.search(r"\d\.$", place[1])]
    dialect, prefix, share = max(shares, key=lambda each: each[2], default=(None, "", 0.0))
    if dialect and share:
        missing = [prefix + mark for mark in dialect.marks if prefix + mark not in written]
        raise ValueError(misfit(dialect.title, {"missing": missing}, written))


def _part(tensors: Tensors, written: Mapping[str, str], prefix: str, dialect: Dialect, others: Collection[str]) -> EncoderPart:
    deeper = tuple(other for other in others if other != prefix and other.startswith(prefix))
    # With an empty tuple, `startswith` returns False for every name.
    inside = [name for name in written if name.startswith(prefix) and not name.startswith(deeper)]
    own = {name.removeprefix(prefix): name for name in inside}
    needed = {mark.partition(".")[0] for mark in dialect.marks} - {"embeddings"}
    words = {name: name.removeprefix("embeddings.").partition(".")[0] for name in own}
    heads = tuple(name for name, word in words.items() if word not in needed and _HEADS.fullmatch(word))
    names = {name: written[whole] for name, whole in own.items() if name not in set(heads)}
    return EncoderPart(prefix, dialect, {name: tensors[each] for name, each in names.items()}, heads, names)


def _same(a: EncoderPart, b: EncoderPart) -> bool:
    """Returns whether two parts are the same encoder under two names, as if a module is an attribute of two others."""
    alike = a.dialect == b.dialect and a.tensors.keys() == b.tensors.keys()
    return alike and all(np.array_equal(tensor, b.tensors[name]) for name, tensor in a.tensors.items())


def _short_names(prefixes: Sequence[str]) -> list[str]:
    """Returns for each prefix a word that no other prefix has, or the whole prefix; a dot for an empty prefix."""
    words = [[word for word in prefix.split(".") if not (word in _WRAPPER or word.isdigit())] for prefix in prefixes]
    alone = [[word for word in own if word and sum(word in others for others in words) == 1] for own in words]
    return [own[0] if own else prefix.removesuffix(".") or "." for own, prefix in zip(alone, prefixes, strict=True)]


def _matching(wanted: str, names: Mapping[str, EncoderPart], parts: Sequence[EncoderPart]) -> list[EncoderPart]:
    """Returns the parts whose short name, whole prefix, word of the prefix, or role is the given name."""
    if wanted in names:
        return [names[wanted]]
    apart = list(names.values())
    exact = [part for part in parts if wanted == (part.prefix.removesuffix(".") or ".")]
    exact = exact or [part for part in apart if wanted in part.prefix.split(".")]
    if exact or not any(wanted in role for role in _ROLES):
        return exact
    role = _TEACHER if wanted in _TEACHER else _STUDENT
    having = [part for part in apart if role & _words(part.prefix)]
    # If the file has a teacher, an encoder without a role is the student.
    others = [part for part in apart if not _TEACHER & _words(part.prefix)]
    return having or (others if role is _STUDENT and len(others) < len(apart) else [])


def _words(prefix: str) -> set[str]:
    return set(re.split(r"[._]", prefix))
