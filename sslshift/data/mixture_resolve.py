"""From a declared mixture to one of whole numbers: open shares are filled up, caps kept, N settled."""

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from sslshift.budget import Budget
from sslshift.data.mixture import Component, Mixture, Stage, apportion, over_cap
from sslshift.data.mixture_text import Amount, Declaration, DeclaredStage, Part


def resolve(declaration: Declaration, sizes: Mapping[str, int], budget: Budget) -> Mixture:
    """The mixture that a declaration means for sources of these sizes and this budget.

    Open shares get equal parts of what the others leave. Where that would take a source over its cap, its open shares are
    lowered in proportion until it just obeys, and the other open ones of those stages get the rest.

    Args:
      declaration: what `parse_mixture` read.
      sizes: number of images of each source, by its name in the declaration.
      budget: C.

    Raises:
      ValueError: shares or lengths do not add up, break a cap, or leave a component no sample; N is above a source's size.
    """
    lengths = _lengths(declaration, budget)
    totals = apportion(budget.samples, [float(length) for length in lengths])
    slots = []
    for number, (stage, length, total) in enumerate(zip(declaration.stages, lengths, totals, strict=True), 1):
        if not total:
            raise ValueError(f"Mixture, stage {number}: its length is not even one sample of the budget; raise one of them.")
        lists = [stage.parts, stage.end] if stage.end else [stage.parts]
        slots += [
            _Slot(
                f"stage {number}" + (f", at its {('start', 'end')[i]}" if stage.end else ""),
                length / len(lists),
                {part.source: _fraction(part.share, total) for part in parts if part.share is not None},
                tuple(part.source for part in parts if part.share is None),
            )
            for i, parts in enumerate(lists)
        ]
    caps = {source.name: _fraction(source.cap, budget.samples) for source in declaration.sources if source.cap is not None}
    shares = iter(_fill(slots, caps))
    stages = tuple(
        _resolved_stage(stage, float(length), total, sizes, next(shares), next(shares) if stage.end else None)
        for stage, length, total in zip(declaration.stages, lengths, totals, strict=True)
    )
    return Mixture(stages, tuple((name, float(cap)) for name, cap in caps.items()))


def plain_shares(declaration: Declaration) -> dict[str, float]:
    """Returns the share of each source of a mixture that says nothing else; open shares get equal parts of what is left.

    Example:
      >>> from sslshift.data.mixture_text import parse_mixture
      >>> plain_shares(parse_mixture("70%*near + web", known={"near": "folder:near", "web": "folder:web"}))
      {'near': 0.7, 'web': 0.3}

    Raises:
      ValueError: the mixture has stages, counts of samples, N, subsets or caps, or its shares do not sum to 1.
    """
    stage = declaration.stages[0]
    parts = stage.parts
    counts = any(isinstance(part.share, int) for part in parts)
    more = any(part.unique is not None or part.subset != "random" for part in parts)
    caps = any(source.cap is not None for source in declaration.sources)
    if len(declaration.stages) > 1 or stage.end or stage.length is not None or counts or more or caps:
        raise ValueError(f"Mixture, at {str(declaration)!r}: expected shares alone, as in 0.7*near + 0.3*web.")
    given = {part.source: Fraction(part.share) for part in parts if part.share is not None}
    open_ = tuple(part.source for part in parts if part.share is None)
    (filled,) = _fill([_Slot("its shares", Fraction(1), given, open_)], {})
    return {part.source: float(filled[part.source]) for part in parts}


def _lengths(declaration: Declaration, budget: Budget) -> list[Fraction]:
    """Each stage's part of the budget."""
    given = {i: stage.length for i, stage in enumerate(declaration.stages) if stage.length is not None}
    slot = _Slot(
        "the lengths of the stages",
        Fraction(1),
        {str(i): _fraction(length, budget.samples) for i, length in given.items()},
        tuple(str(i) for i in range(len(declaration.stages)) if i not in given),
    )
    (filled,) = _fill([slot], {})
    return [filled[str(i)] for i in range(len(declaration.stages))]


def _resolved_stage(
    stage: DeclaredStage,
    length: float,
    total: int,
    sizes: Mapping[str, int],
    start: dict[str, Fraction],
    end: dict[str, Fraction] | None,
) -> Stage:
    # Of the two lists of a ramp, the part that gives N.
    parts = {part.source: part for part in sorted(stage.parts + stage.end, key=lambda part: part.unique is not None)}
    names = list(dict.fromkeys(part.source for part in stage.parts + stage.end))
    components = []
    for name in names:
        if name not in sizes:
            raise ValueError(f"{name}: the number of its images is not known.")
        at_end = None if end is None else float(end.get(name, 0))
        components.append(Component(name, sizes[name], 1, float(start.get(name, 0)), at_end, parts[name].subset))
    samples = Stage(tuple(components), length).segments(total)[-1].after
    return Stage(
        tuple(
            dataclasses.replace(component, unique=_unique(parts[component.source], component.size, count))
            for component, count in zip(components, samples, strict=True)
        ),
        length,
    )


def _unique(part: Part, size: int, samples: int) -> int:
    if not samples:
        raise ValueError(f"{part.source}: its share is not even one sample of the budget; raise the share or the budget.")
    if part.unique is None:
        return min(size, samples)
    return part.unique if isinstance(part.unique, int) else max(1, int(size * part.unique))


def _fraction(amount: Amount, whole: int) -> Fraction:
    return Fraction(amount, whole) if isinstance(amount, int) else Fraction(amount)


class _Slot(NamedTuple):
    """Parts of one whole, some given and some open: the components of a stage, of one end of a ramp, or the stages.

    Attributes:
      where: what errors call it.
      weight: part of the budget that it stands for.
      given: shares that were written.
      open: names of those that were not.
    """

    where: str
    weight: Fraction
    given: dict[str, Fraction]
    open: tuple[str, ...]

    def each(self) -> Fraction:
        """Share of each open one."""
        return (Fraction(1) - sum(self.given.values())) / len(self.open) if self.open else Fraction(0)

    def share(self, name: str) -> Fraction:
        return self.given.get(name, self.each() if name in self.open else Fraction(0))

    def fixed(self, name: str, share: Fraction) -> "_Slot":
        return self._replace(given=self.given | {name: share}, open=tuple(one for one in self.open if one != name))


def _fill(slots: list[_Slot], caps: Mapping[str, Fraction]) -> list[dict[str, Fraction]]:
    """All shares of each slot."""
    for slot in slots:
        total = sum(slot.given.values())
        if total >= 1 and slot.open:
            raise ValueError(f"Mixture, {slot.where}: what is given sums to {_text(total)} and leaves nothing for the others.")
        if not slot.open and abs(total - 1) > 1e-6:
            raise ValueError(f"Mixture, {slot.where}: what is given sums to {_text(total)}, not to 100%.")
    for name, cap in caps.items():
        given = sum(slot.weight * slot.given.get(name, 0) for slot in slots)
        if given > cap:
            raise ValueError(over_cap(name, given, cap))
    while over := next((name for name, cap in caps.items() if _used(slots, name) > cap), None):
        slots = _lowered(slots, over, caps[over])
    return [slot.given | dict.fromkeys(slot.open, slot.each()) for slot in slots]


def _used(slots: list[_Slot], name: str) -> Fraction:
    """The part of the budget that open shares of a source bring it to; 0 if none is open any more."""
    return sum(slot.weight * slot.share(name) for slot in slots) if any(name in slot.open for slot in slots) else Fraction(0)


def _lowered(slots: list[_Slot], name: str, cap: Fraction) -> list[_Slot]:
    """The slots with a source's open shares lowered to its cap; where nothing else is open, its share cannot be lowered."""
    flexible = sum(slot.weight * slot.each() for slot in slots if name in slot.open and len(slot.open) > 1)
    excess = _used(slots, name) - cap
    if excess > flexible:
        stuck = ", ".join(slot.where for slot in slots if slot.open == (name,))
        raise ValueError(
            f"{over_cap(name, cap + excess - flexible, cap)[:-1]} "
            f"(nothing else may fill {stuck}: name another source there without a share)."
        )
    factor = 1 - excess / flexible
    if not factor:
        raise ValueError(f"{name}: given shares use up its cap of {_text(cap)}; leave it out where its share is open.")
    return [
        slot.fixed(name, slot.each() * (factor if len(slot.open) > 1 else 1)) if name in slot.open else slot for slot in slots
    ]


def _text(share: Fraction) -> str:
    return f"{100 * float(share):.6g}%"
