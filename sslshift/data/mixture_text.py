"""The text form of mixtures, short enough for a flag: sources, unique samples, shares, stages and caps.

    near:folder:/data/parts?labels=folder@2000*0.7 + web:arrayrecord:/data/web@500_000*0.3
    near_first = near:folder:/data/parts@all for 30%; web:arrayrecord:/data/web@500_000
    fading = near:folder:/data/parts*90% + web:arrayrecord:/data/web<=20% -> near*10% + web + noise:synthetic:noise; near
    mostly near = 0.7*near + 30%*web

| piece | form |
|---|---|
| mixture | `STAGE; STAGE; ...`, with an optional `NAME = ` in front |
| stage | `LIST for LENGTH`; or `LIST -> LIST for LENGTH`, a ramp: shares change linearly from the first to the second list |
| list | `COMPONENT + COMPONENT + ...` |
| component | `NAME:URI@N/SUBSET*SHARE<=CAP`, all optional except the URI; `NAME@N...` if the name is known already |
| N, unique samples | `@2000`, `@10%` or `@all` of the source; default: all, or its samples of the budget if they are fewer |
| subset | `/proportional` or `/balanced` after N: drawn by class (see `sslshift.data.subset`); default: drawn at random |
| share | `*0.7` or `*70%` of the stage, or `*140_000` samples; default: an equal part of the rest of the stage |
| cap | `<=10%`, `<=0.1` or `<=50_000` samples of the whole budget, over all stages |
| length | `for 0.3`, `for 30%` or `for 30_000` samples; default: an equal part of the rest of the budget |

A share can also be in front of its component: `0.7*near`, `70%*near:folder:/data/parts@2000`.

A number up to 1 is a part, and a whole number above 1 counts samples. Spaces are required around `+`, `->`, `for`, and the `=`
after a mixture's name, and are allowed around all other signs, so that paths with a `+` or `@` need no encoding. `;` always
separates stages. In a path that looks like one of these pieces, characters are encoded as in `sslshift.data.sources.uri`: `%3B`
for `;`, `%40` for `@` (`folder:icons%402`), and so on. The URIs that commands print are encoded in this way.

A source's name is one word, and must be the same at every place; without a name, the URI is the name. N may differ between
stages, but the subset may not. In a ramp either list may give a source's N; a source in only one list starts or ends at 0.

If sources are declared elsewhere, as for `python -m tools.shift`, a mixture uses their declared names. Names of several words
are then allowed, and the spaces around `=` and around a `+` in front of a share are optional.
"""

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping
from decimal import Decimal

from sslshift.data.mixture import SUBSETS
from sslshift.data.sources.uri import parse_uri, spelled

# A part of a whole, or a whole number of samples or images.
Amount = Decimal | int


@dataclasses.dataclass(frozen=True)
class NamedSource:
    """A source of a declared mixture: its name, its URI, and the largest part of the budget that it may take."""

    name: str
    uri: str
    cap: Amount | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    """A component as it is written; None for a value that is not given.

    Args:
      source: name of the source.
      unique: N, as a part of the source or a number of images.
      subset: "random", "proportional" or "balanced".
      share: share of the stage, as a part or a number of samples.
    """

    source: str
    unique: Amount | None = None
    subset: str = "random"
    share: Amount | None = None


@dataclasses.dataclass(frozen=True)
class DeclaredStage:
    """A stage as it is written; with an `end`, shares change from the shares of `parts` to the shares of `end`."""

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
        """Returns the URI of each source by its name."""
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
    """Returns the URI as it is, or encoded where a part of it would be read as another piece of a mixture."""
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


def parse_mixture(text: str, schemes: Collection[str] | None = None, *, known: Mapping[str, str] | None = None) -> Declaration:
    """Reads a mixture; the docstring of this module describes the form.

    Args:
      text: the mixture.
      schemes: words that a URI may begin with (before the ':'); None: any word of two letters or more.
      known: URI of each source that is declared elsewhere, by its name; None: the text declares its own sources.

    Example:
      >>> declaration = parse_mixture("near:bundled:mnist@2_000*70% + far:synthetic:noise; far for 0.25")
      >>> declaration.uris
      {'near': 'bundled:mnist', 'far': 'synthetic:noise'}
      >>> str(declaration)
      'near:bundled:mnist@2_000*0.7 + far:synthetic:noise; far for 0.25'
      >>> parse_mixture("70%*bundled:mnist + synthetic:noise") == parse_mixture("bundled:mnist*0.7 + synthetic:noise")
      True

    Raises:
      ValueError: the text has another form. The message names the offending piece and the right form.
    """
    if known is not None:
        return _parse_with_known(text, schemes, known)
    name, text = _split_name(text)
    return _parse(name, text, _Sources(schemes))


def _parse(name: str, text: str, sources: "_Sources") -> Declaration:
    pieces = [piece.strip() for piece in text.split(";")]
    if len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    if not all(pieces):
        raise _wrong(text.strip(), "a stage is empty; write 'A + B; C' for A and B together and then C")
    stages = tuple(_stage(piece, sources) for piece in pieces)
    used = {part.source for stage in stages for part in stage.parts + stage.end}
    return Declaration(name, tuple(source for source in sources.named() if source.name in used), stages)


def _parse_with_known(text: str, schemes: Collection[str] | None, known: Mapping[str, str]) -> Declaration:
    # Names of several words, or with a `+` or `;` inside, would be split: single words replace them while the text is read.
    # Longer names first, since a shorter one can be a part of a longer one.
    words = {
        name: name if re.fullmatch(_NAME, name) else f"_known_{number}_"
        for number, name in enumerate(sorted(known, key=len, reverse=True))
    }

    def restored(text: str) -> str:
        for name, word in words.items():
            text = text if word == name else text.replace(word, name)
        return text

    for name, word in words.items():
        text = text if word == name else text.replace(name, word)
    match = re.match(r"\s*([^=*]+?)\s*(?<!<)=\s*", text)
    own, text = (match[1], text[match.end() :]) if match else ("", text)
    # A `+` in front of a share needs no spaces here: no path of a URI can contain it.
    text = re.sub(r"\s*\+\s*(?=[0-9.]+(?:e-?[0-9]+)?\s*%?\s*\*)", " + ", text)
    try:
        found = _parse(restored(own), text, _Sources(schemes, {words[name]: uri for name, uri in known.items()}))
    except ValueError as error:
        raise ValueError(restored(str(error))) from error
    names = {word: name for name, word in words.items()}

    def renamed(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(dataclasses.replace(part, source=names.get(part.source, part.source)) for part in parts)

    stages = tuple(dataclasses.replace(stage, parts=renamed(stage.parts), end=renamed(stage.end)) for stage in found.stages)
    sources = tuple(dataclasses.replace(source, name=names.get(source.name, source.name)) for source in found.sources)
    return Declaration(found.name, sources, stages)


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
        raise _wrong(piece, "a stage has at most one '->'; write 'A -> B; B -> C' for a ramp over several lists")
    # A count of samples cannot change linearly; only a share of the samples at each moment can.
    for part in lists[0] + lists[-1] if len(lists) == 2 else []:
        if isinstance(part.share, int):
            raise _wrong(piece, f"shares that move are parts of the samples, not counts: write *0.7 or *70%, not *{part.share}")
        both = {(other.unique, other.subset) for other in lists[0] + lists[1] if other.source == part.source}
        if len(both - {(None, "random")}) > 1:
            raise _wrong(piece, f"{part.source} has two different N or subsets in one ramp; give one of them")
    if len(lists) == 1 and any(part.share == 0 for part in lists[0]):
        raise _wrong(piece, "a share must be above 0, except at one end of a ramp ('A -> B'); remove the component")
    amount = None if length is None else _amount(length, f"for {length}", "a stage's length", "for 0.3, for 30% or for 30_000")
    if amount == 0:
        raise _wrong(f"for {length}", "a stage's length must be above 0: write for 0.3, for 30% or for 30_000")
    return DeclaredStage(*lists, length=amount)


def _list(text: str, stage: str, sources: "_Sources") -> tuple[Part, ...]:
    pieces = re.split(r"\s+\+\s+", text)
    parts = tuple(_part(piece.strip(), stage, sources) for piece in pieces)
    names = [part.source for part in parts]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _wrong(text, f"{twice} occurs twice among these components; name each source once")
    return parts


# The beginning of a number, right or wrong. Other text belongs to the URI, as in `folder:/data/me@home`.
_BEGIN = "[-+]?[.,]?[0-9]"
# The name of a source: one word.
_NAME = r"[A-Za-z_][\w.-]*"


def _part(piece: str, stage: str, sources: "_Sources") -> Part:
    # A `+` without spaces may be part of a path; if a source begins after it, a space is missing.
    joints = re.finditer(r"(\s?)(?:\+|->)(\s?)", piece)
    joined = any(sources.begins(piece[joint.end() :], spaced=any(joint.groups())) for joint in joints)
    if not piece or re.search(r"^(\+|->)|\s(\+|->)$", piece) or joined:
        raise _wrong(
            piece or stage, "a component is missing, or a space beside '+' or '->': write 'A + B' for two, 'A -> B' for a ramp"
        )
    # The component is read from its end: first the cap, then the share, then N; the rest is the source.
    head, comparison, cap = piece.partition("<=")
    head, factor = _cut_factor(head)
    head, share = _cut_share(head)
    head, unique, subset = _cut_unique(head, piece)
    if _cut_share(head)[1] is not None:
        raise _wrong(piece, "write a component as NAME:URI@N/SUBSET*SHARE<=CAP, in this order")
    if factor is not None and share is not None:
        raise _wrong(piece, "the component has two shares, one on each side; give one of them")
    share = factor if share is None else share
    source = sources.name(head.strip(), piece)
    if comparison:
        sources.limit(source, _amount(cap.strip(), piece, "a cap", "<=10%, <=0.1 or <=50_000"), piece)
    amount = None if share is None else _amount(share.strip(), piece, "a share", "*0.7, *70% or *140_000")
    return Part(source, unique, subset, amount)


def _cut_factor(text: str) -> tuple[str, str | None]:
    """Returns the text after 'SHARE*', and the share if there is one."""
    match = re.fullmatch(rf"\s*({_BEGIN}[^*/@:]*?)\s*\*\s*(\S.*)", text, re.DOTALL)
    return (match[2], match[1]) if match else (text, None)


def _cut_share(text: str) -> tuple[str, str | None]:
    """Returns the text before '*SHARE', and the share if there is one."""
    match = re.fullmatch(rf"(.*\S)\s*\*\s*({_BEGIN}[^/*@]*)", text.strip(), re.DOTALL)
    return match.groups() if match else (text, None)


def _cut_unique(text: str, piece: str) -> tuple[str, Amount | None, str]:
    """Returns the text before '@N/SUBSET', N and the subset."""
    match = re.fullmatch(rf"(.*\S)\s*@\s*(all|{_BEGIN}[^/@]*?)\s*(?:/\s*([^/@]*))?", text.strip(), re.DOTALL)
    if not match:
        return text, None, "random"
    head, number, subset = match.groups()
    if subset is not None and subset not in SUBSETS[1:]:
        meant = difflib.get_close_matches(subset, SUBSETS[1:])
        if not meant:
            # In a path such as /data@2/icons, the '@' begins no N.
            return text, None, "random"
        raise _wrong(piece, f"expected /{meant[0]} after N, got /{subset}")
    form = "@2000, @10% or @all"
    unique = Decimal(1) if number == "all" else _amount(number, piece, "N", form)
    # `@0.5` could mean half of the source or half an image: parts of N are written in percent.
    if isinstance(unique, Decimal) and not (number.endswith("%") or number == "all"):
        # For N, the number 1 is a count: one image.
        unique = int(unique) if unique == 1 else Decimal(0)
    if not unique:
        raise _wrong(piece, f"N is a whole number of images above 0, or a part of them: write {form}")
    return head, unique, subset or "random"


def _amount(text: str, piece: str, what: str, form: str) -> Amount:
    """Returns a part of a whole as a decimal up to 1, or a whole number above it."""
    match = re.fullmatch(r"((?:[0-9][0-9_]*(?:\.[0-9]+)?|\.[0-9]+)(?:e-?[0-9]+)?)\s*(%?)", text)
    if match:
        number = Decimal(match[1]) / (100 if match[2] else 1)
        if number <= 1:
            return number
        if not match[2] and number == int(number):
            return int(number)
    raise _wrong(piece, f"expected {what} such as {form}, got {text!r}")


class _Sources:
    """Sources that a text has named so far, and sources that are declared elsewhere."""

    def __init__(self, schemes: Collection[str] | None, known: Mapping[str, str] | None = None):
        self._schemes = schemes
        self._known = known
        self._uris: dict[str, str] = dict(known or {})
        self._caps: dict[str, Amount] = {}

    def named(self) -> tuple[NamedSource, ...]:
        return tuple(NamedSource(name, uri, self._caps.get(name)) for name, uri in self._uris.items())

    def name(self, head: str, piece: str) -> str:
        """Returns the name of the source that `NAME:URI`, `URI` or `NAME` refers to."""
        if ":" not in head:
            if head in self._uris:
                return head
            near = difflib.get_close_matches(head, self._uris, 1)
            if self._known is not None:
                hint = f"expected one of {', '.join(self._known)}"
                raise _wrong(piece, f"no source is called {head!r}; {hint}")
            hint = (
                f"did you mean {near[0]}?"
                if near
                else "write its URI where it first appears, as in near:folder:/data/parts; a ';' in a path is %3B"
            )
            raise _wrong(piece, f"no source is called {head!r} so far; {hint}")
        first, _, rest = head.partition(":")
        known = self._schemes is not None and first in self._schemes
        if not known and re.fullmatch(_NAME, first) and self._has_scheme(rest):
            return self._add(first, rest, piece)
        if not self._has_scheme(head):
            begin = f"one of {', '.join(f'{scheme}:' for scheme in sorted(self._schemes))}" if self._schemes else "its scheme"
            raise _wrong(piece, f"a URI begins with {begin}, after a name of one word or none, as in near:folder:/data/parts")
        return self._add(None, head, piece)

    def begins(self, text: str, *, spaced: bool) -> bool:
        """Returns whether a component seems to begin here, after a '+'; only a scheme distinguishes it from a path."""
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
        # A plan that counted one source as two would show its images more often than planned.
        called = next((other for other, known in self._uris.items() if str(parse_uri(known)) == same), name or uri)
        if called != (name or called):
            other = "has no name" if called == uri else f"is called {called}"
            raise _wrong(piece, f"{uri} {other} at an earlier place; use the same name for a source everywhere")
        if str(parse_uri(self._uris.setdefault(called, uri))) != same:
            raise _wrong(piece, f"{called} is the name of {self._uris[called]}; give the other source another name")
        return called

    def limit(self, source: str, cap: Amount, piece: str) -> None:
        if not cap:
            raise _wrong(piece, "a cap must be above 0; remove a source that may not be used")
        if self._caps.setdefault(source, cap) != cap:
            raise _wrong(piece, f"{source} has another cap at an earlier place; a cap holds over all stages, give it once")


def _wrong(piece: str, sentence: str) -> ValueError:
    return ValueError(f"Mixture, at {piece!r}: {sentence}{'' if sentence.endswith('?') else '.'}")
