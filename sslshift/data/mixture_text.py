"""Mixtures as text, short enough for a flag: sources, unique samples, shares, stages and caps.

    near:folder:/data/parts?labels=folder@2000*0.7 + web:arrayrecord:/data/web@500_000*0.3
    near_first = near:folder:/data/parts@all for 30%; web:arrayrecord:/data/web@500_000
    fading = near:folder:/data/parts*90% + web:arrayrecord:/data/web<=20% -> near*10% + web + noise:synthetic:noise; near

| piece | form |
|---|---|
| mixture | `STAGE; STAGE; ...`, with `NAME = ` in front if it is to have a name |
| stage | `LIST for LENGTH`; or `LIST -> LIST for LENGTH`, a ramp: shares move from one list's to the other's in a line |
| list | `COMPONENT + COMPONENT + ...` |
| component | `NAME:URI@N/SUBSET*SHARE<=CAP`, all but the URI optional; `NAME@N...` where the name is known already |
| N, unique samples | `@2000`, `@10%` or `@all` of the source; without: all, or its samples of the budget if they are fewer |
| subset | `/proportional` or `/balanced` after N: drawn by class (see `sslshift.data.subset`); without: at random |
| share | `*0.7` or `*70%` of the stage, or `*140_000` samples; without: an equal part of what the others leave |
| cap | `<=10%`, `<=0.1` or `<=50_000` samples of the whole budget, over all stages |
| length | `for 0.3`, `for 30%` or `for 30_000` samples; without: an equal part of what the other stages leave |

A number up to 1 is a part, a whole number above it counts samples. Spaces must stand around `+`, `->`, `for`, and the `=`
after a mixture's name, and may stand around everything else: paths with a `+` or `@` inside need nothing. `;` always separates.
In a path that looks like one of these pieces, characters are encoded as `sslshift.data.sources.uri` says: `%3B` for `;`, `%40`
for `@` (`folder:icons%402`), and so on; the URIs that commands print are encoded so.

A source's name is one word, the same wherever its URI appears; without one, the URI is the name. N may differ between stages,
the way of drawing may not. In a ramp either list may give a source's N; a source that only one names starts or ends at 0.
"""

import dataclasses
import difflib
import re
from collections.abc import Collection
from decimal import Decimal

from sslshift.data.mixture import SUBSETS
from sslshift.data.sources.uri import parse_uri, spelled

# A part of a whole, or a whole number of samples or images.
Amount = Decimal | int


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """A source of a declared mixture: its name, its URI, and the most of the budget that it may take."""

    name: str
    uri: str
    cap: Amount | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A component as it is written. What is None was left open.

    Args:
      source: name of its source.
      unique: N, as a part of the source or a number of images.
      subset: "random", "proportional" or "balanced".
      share: of the stage, as a part or a number of samples.
    """

    source: str
    unique: Amount | None = None
    subset: str = "random"
    share: Amount | None = None


@dataclasses.dataclass(frozen=True)
class DeclaredStage:
    """A stage as it is written; one with an `end` moves from the shares of `parts` to those of `end`."""

    parts: tuple[Part, ...]
    end: tuple[Part, ...] = ()
    length: Amount | None = None


@dataclasses.dataclass(frozen=True)
class Declaration:
    """A mixture as it is written, before sizes and budget are known (see `mixture_resolve`); `str()` gives its text."""

    name: str
    sources: tuple[NamedSource, ...]
    stages: tuple[DeclaredStage, ...]

    @property
    def uris(self) -> dict[str, str]:
        """URI of each source by its name."""
        return {source.name: source.uri for source in self.sources}

    def __str__(self) -> str:
        unseen = {source.name: source for source in self.sources}
        stages = "; ".join(_stage_text(stage, unseen) for stage in self.stages)
        return f"{self.name} = {stages}" if self.name else stages


def _stage_text(stage: DeclaredStage, unseen: dict[str, NamedSource]) -> str:
    lists = (" + ".join(_part_text(part, unseen) for part in parts) for parts in (stage.parts, stage.end) if parts)
    return " -> ".join(lists) + ("" if stage.length is None else f" for {_number(stage.length)}")


def _part_text(part: Part, unseen: dict[str, NamedSource]) -> str:
    source = unseen.pop(part.source, None)
    text = part.source
    if source is not None:
        text = _uri_text(source.uri) if source.uri == source.name else f"{source.name}:{_uri_text(source.uri)}"
    if part.unique is not None:
        text += "@" + ("all" if part.unique == 1 and isinstance(part.unique, Decimal) else _percent(part.unique))
    text += "" if part.subset == "random" else f"/{part.subset}"
    text += "" if part.share is None else f"*{_number(part.share)}"
    return text + ("" if source is None or source.cap is None else f"<={_percent(source.cap)}")


def _uri_text(uri: str) -> str:
    """The URI as it is, or encoded where the text around it would take a part of it for something else."""
    for text in (uri, f"{uri}@all"):
        try:
            survives = parse_mixture(text).uris == {uri: uri}
        except ValueError:
            survives = False
        if not survives:
            return str(parse_uri(uri))
    return uri


def _number(amount: Amount) -> str:
    if isinstance(amount, int):
        return f"{amount:_}"
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _percent(amount: Amount) -> str:
    return _number(amount) if isinstance(amount, int) else f"{_number(amount * 100)}%"


def parse_mixture(text: str, schemes: Collection[str] | None = None) -> Declaration:
    """Reads a mixture, see the module for the form.

    Args:
      text: the mixture.
      schemes: what a URI may begin with (before the ':'); None: any word of two letters or more.

    Example:
      >>> declaration = parse_mixture("near:bundled:mnist@2_000*70% + far:synthetic:noise; far for 0.25")
      >>> declaration.uris
      {'near': 'bundled:mnist', 'far': 'synthetic:noise'}
      >>> str(declaration)
      'near:bundled:mnist@2_000*0.7 + far:synthetic:noise; far for 0.25'

    Raises:
      ValueError: a sentence that names the offending piece and the right form.
    """
    name, text = _split_name(text)
    pieces = [piece.strip() for piece in text.split(";")]
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    if not all(pieces):
        raise _wrong(text.strip(), "a stage is empty; write 'A + B; C' for A and B together and then C")
    sources = _Sources(schemes)
    stages = tuple(_stage(piece, sources) for piece in pieces)
    return Declaration(name, sources.named(), stages)


def _split_name(text: str) -> tuple[str, str]:
    match = re.match(r"\s*([^:;]*?)\s+=\s", text)
    if not match:
        return "", text
    if not re.fullmatch(r"[\w.-]+", match[1]):
        raise _wrong(match[0].strip(), "a mixture's name is one word of letters, digits and . _ -, as in 'near_first = ...'")
    return match[1], text[match.end() :]


def _stage(piece: str, sources: "_Sources") -> DeclaredStage:
    match = re.fullmatch(rf"(.*\S)\s+for\s+({_BEGIN}[^\s/]*(?:\s*%)?)", piece, re.DOTALL)
    body, length = match.groups() if match else (piece, None)
    lists = [_list(part, piece, sources) for part in re.split(r"\s+->\s+", body)]
    if len(lists) > 2:
        raise _wrong(piece, "a stage has one '->' at most; write 'A -> B; B -> C' for a way over several lists")
    for part in lists[0] + lists[-1] if len(lists) == 2 else []:
        if isinstance(part.share, int):
            raise _wrong(piece, f"shares that move are parts of the samples, not counts: write *0.7 or *70%, not *{part.share}")
        both = {(other.unique, other.subset) for other in lists[0] + lists[1] if other.source == part.source}
        if len(both - {(None, "random")}) > 1:
            raise _wrong(piece, f"{part.source} has two different N or subsets in one ramp; give one of them")
    if len(lists) == 1 and any(part.share == 0 for part in lists[0]):
        raise _wrong(piece, "a share lies above 0, except at one end of a ramp ('A -> B'); leave the component out")
    amount = None if length is None else _amount(length, f"for {length}", "a stage's length", "for 0.3, for 30% or for 30_000")
    if amount == 0:
        raise _wrong(f"for {length}", "a stage's length lies above 0: write for 0.3, for 30% or for 30_000")
    return DeclaredStage(*lists, length=amount)


def _list(text: str, stage: str, sources: "_Sources") -> tuple[Part, ...]:
    pieces = re.split(r"\s+\+\s+", text)
    parts = tuple(_part(piece.strip(), stage, sources) for piece in pieces)
    names = [part.source for part in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _wrong(text, f"{twice} stands twice among these components; name each source once")
    return parts


# How a number begins, right or wrong: what does not even begin so belongs to the URI, as in `folder:/data/me@home`.
_BEGIN = "[-+]?[.,]?[0-9]"


def _part(piece: str, stage: str, sources: "_Sources") -> Part:
    joints = re.finditer(r"(\s?)(?:\+|->)(\s?)", piece)
    joined = any(sources.begins(piece[joint.end() :], spaced=any(joint.groups())) for joint in joints)
    if not piece or re.search(r"^(\+|->)|\s(\+|->)$", piece) or joined:
        raise _wrong(
            piece or stage, "a component is missing, or a space beside '+' or '->': write 'A + B' for two, 'A -> B' for a ramp"
        )
    head, comparison, cap = piece.partition("<=")
    head, share = _cut_share(head)
    head, unique, subset = _cut_unique(head, piece)
    if _cut_share(head)[1] is not None:
        raise _wrong(piece, "a component is written NAME:URI@N/SUBSET*SHARE<=CAP, in this order")
    source = sources.name(head.strip(), piece)
    if comparison:
        sources.limit(source, _amount(cap.strip(), piece, "a cap", "<=10%, <=0.1 or <=50_000"), piece)
    amount = None if share is None else _amount(share.strip(), piece, "a share", "*0.7, *70% or *140_000")
    return Part(source, unique, subset, amount)


def _cut_share(text: str) -> tuple[str, str | None]:
    """The text before '*SHARE', and the share if there is one."""
    match = re.fullmatch(rf"(.*\S)\s*\*\s*({_BEGIN}[^/*@]*)", text.strip(), re.DOTALL)
    return match.groups() if match else (text, None)


def _cut_unique(text: str, piece: str) -> tuple[str, Amount | None, str]:
    """The text before '@N/SUBSET', N and the subset."""
    match = re.fullmatch(rf"(.*\S)\s*@\s*(all|{_BEGIN}[^/@]*?)\s*(?:/\s*([^/@]*))?", text.strip(), re.DOTALL)
    if not match:
        return text, None, "random"
    head, number, subset = match.groups()
    if subset is not None and subset not in SUBSETS[1:]:
        meant = difflib.get_close_matches(subset, SUBSETS[1:])
        if not meant:
            return text, None, "random"
        raise _wrong(piece, f"/{subset} is no way to draw a subset; write /{meant[0]}")
    form = "@2000, @10% or @all"
    unique = Decimal(1) if number == "all" else _amount(number, piece, "N", form)
    if isinstance(unique, Decimal) and not (number.endswith("%") or number == "all"):
        # Of a number, 1 is a count here: one image.
        unique = int(unique) if unique == 1 else Decimal(0)
    if not unique:
        raise _wrong(piece, f"N is a whole number of images above 0, or a part of them: write {form}")
    return head, unique, subset or "random"


def _amount(text: str, piece: str, what: str, form: str) -> Amount:
    """A part of a whole as a decimal up to 1, or a whole number above it."""
    match = re.fullmatch(r"((?:[0-9][0-9_]*)?(?:\.[0-9]+)?)\s*(%?)", text)
    if match and match[1]:
        number = Decimal(match[1]) / (100 if match[2] else 1)
        if number <= 1:
            return number
        if not match[2] and number == int(number):
            return int(number)
    raise _wrong(piece, f"{text!r} is no {what.removeprefix('a ')}; write {form}")


class _Sources:
    """The sources that a text has named so far."""

    def __init__(self, schemes: Collection[str] | None):
        self._schemes = schemes
        self._uris: dict[str, str] = {}
        self._caps: dict[str, Amount] = {}

    def named(self) -> tuple[NamedSource, ...]:
        return tuple(NamedSource(name, uri, self._caps.get(name)) for name, uri in self._uris.items())

    def name(self, head: str, piece: str) -> str:
        """Name of the source that `NAME:URI`, `URI` or `NAME` stands for."""
        if ":" not in head:
            if head in self._uris:
                return head
            near = difflib.get_close_matches(head, self._uris, 1)
            hint = f"did you mean {near[0]}?" if near else "write its URI where it first appears, as in near:folder:/data/parts"
            raise _wrong(piece, f"no source is called {head!r} so far; {hint}")
        first, _, rest = head.partition(":")
        known = self._schemes is not None and first in self._schemes
        if not known and re.fullmatch(r"[A-Za-z_][\w.-]*", first) and self._has_scheme(rest):
            return self._add(first, rest, piece)
        if not self._has_scheme(head):
            begin = f"one of {', '.join(f'{scheme}:' for scheme in sorted(self._schemes))}" if self._schemes else "its scheme"
            raise _wrong(piece, f"a URI begins with {begin}, after a name of one word or none, as in near:folder:/data/parts")
        return self._add(None, head, piece)

    def begins(self, text: str, *, spaced: bool) -> bool:
        """Whether a component seems to begin here, after a '+' with or without a space: only a scheme tells it from a path."""
        match = re.match(r"(?:[A-Za-z_][\w.-]*:)?([A-Za-z][\w.-]+):", text)
        if match and (spaced if self._schemes is None else match[1] in self._schemes):
            return True
        return spaced and re.match(r"[\w.-]*", text)[0] in self._uris

    def _has_scheme(self, text: str) -> bool:
        match = re.match(r"([A-Za-z][\w.-]+):", text)
        return bool(match) and (self._schemes is None or match[1] in self._schemes)

    def _add(self, name: str | None, uri: str, piece: str) -> str:
        uri = spelled(uri)
        try:
            same = str(parse_uri(uri))
        except ValueError as error:
            raise _wrong(piece, str(error).removesuffix(".")) from error
        # Two spellings of one URI are one source.
        called = next((other for other, known in self._uris.items() if str(parse_uri(known)) == same), name or uri)
        if called != (name or called):
            other = "has no name" if called == uri else f"is called {called}"
            raise _wrong(piece, f"{uri} {other} at an earlier place; a source has the same name everywhere")
        if str(parse_uri(self._uris.setdefault(called, uri))) != same:
            raise _wrong(piece, f"{called} is the name of {self._uris[called]}; give the other source another name")
        return called

    def limit(self, source: str, cap: Amount, piece: str) -> None:
        if not cap:
            raise _wrong(piece, "a cap lies above 0; leave out a source that may not be used")
        if self._caps.setdefault(source, cap) != cap:
            raise _wrong(piece, f"{source} has another cap at an earlier place; a cap holds over all stages, give it once")


def _wrong(piece: str, sentence: str) -> ValueError:
    return ValueError(f"Mixture, at {piece!r}: {sentence}{'' if sentence.endswith('?') else '.'}")
