"""Resolution of a declared mixture for given sources and a budget: fills open shares, obeys caps, and determines N."""

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from sslshift.budget import Budget
from sslshift.data.mixture import Component, Mixture, Stage, apportion, over_cap
from sslshift.data.mixture_text import Amount, Declaration, DeclaredStage, Part


def resolve(declaration: Declaration, sizes: Mapping[str, int], budget: Budget) -> Mixture:
    """Returns the mixture that a declaration describes for sources of these sizes and this budget.

    Open shares get equal parts of the rest that the given shares leave. If a source would exceed its cap, its open shares are
    lowered in proportion until it obeys the cap exactly, and the other open shares of those stages get the rest.

    Args:
      declaration: result of `parse_mixture`.
      sizes: number of images of each source, by its name in the declaration.
      budget: C.

    Raises:
      ValueError: shares or lengths do not sum to 1, exceed a cap, or leave a component without a sample; or N is above a
        source's size.
    """
    # Lengths come first: the shares of a stage may be given as samples, and its length is needed to convert them to fractions.
    lengths = _lengths(declaration, budget)
    totals = apportion(budget.samples, [float(length) for length in lengths])
    slots = []
    for number, (stage, length, total) in enumerate(zip(declaration.stages, lengths, totals, strict=True), 1):
        if not total:
            raise ValueError(
                f"Mixture, stage {number}: its length is less than one sample; lengthen the stage, or raise the budget of "
                f"{budget.samples:,}."
            )
        # The shares at each end of a ramp sum to 1, and each end has half of the stage's weight in the budget.
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
    """Returns the share of each source of a mixture of shares alone; open shares get equal parts of the rest.

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
    """Returns each stage's part of the budget."""
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
    # N may be given in either of the two lists of a ramp. The sort puts the part with N last, so that the dictionary keeps it.
    parts = {part.source: part for part in sorted(stage.parts + stage.end, key=lambda part: part.unique is not None)}
    names = list(dict.fromkeys(part.source for part in stage.parts + stage.end))
    components = []
    for name in names:
        if name not in sizes:
            raise ValueError(f"{name}: expected the number of images of this source in `sizes`, got no entry for it.")
        at_end = None if end is None else float(end.get(name, 0))
        components.append(Component(name, sizes[name], 1, float(start.get(name, 0)), at_end, parts[name].subset))
    # N depends on the samples, and those on the shares alone, so the components have N = 1 until here.
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
        raise ValueError(f"{part.source}: its share is less than one sample of the budget; raise the share or the budget.")
    if part.unique is None:
        return min(size, samples)
    return part.unique if isinstance(part.unique, int) else max(1, int(size * part.unique))


def _fraction(amount: Amount, whole: int) -> Fraction:
    # Fractions are exact, since a source that is lowered to its cap must not exceed the cap by rounding.
    return Fraction(amount, whole) if isinstance(amount, int) else Fraction(amount)


class _Slot(NamedTuple):
    """Parts that sum to 1, some given and some open: the components of a stage or of one end of a ramp, or all stages.

    Attributes:
      where: name of the slot in errors.
      weight: part of the budget that the slot covers.
      given: shares that the declaration gives.
      open: names of the parts whose shares the declaration leaves open.
    """

    where: str
    weight: Fraction
    given: dict[str, Fraction]
    open: tuple[str, ...]

    def each(self) -> Fraction:
        """Returns the share of each open part."""
        return (Fraction(1) - sum(self.given.values())) / len(self.open) if self.open else Fraction(0)

    def share(self, name: str) -> Fraction:
        return self.given.get(name, self.each() if name in self.open else Fraction(0))

    def fixed(self, name: str, share: Fraction) -> "_Slot":
        return self._replace(given=self.given | {name: share}, open=tuple(one for one in self.open if one != name))


def _fill(slots: list[_Slot], caps: Mapping[str, Fraction]) -> list[dict[str, Fraction]]:
    """Returns all shares of each slot."""
    for slot in slots:
        total = sum(slot.given.values())
        if total >= 1 and slot.open:
            raise ValueError(f"Mixture, {slot.where}: the given shares sum to {_text(total)} and leave nothing for the others.")
        if not slot.open and abs(total - 1) > 1e-6:
            raise ValueError(f"Mixture, {slot.where}: expected shares that sum to 100%, got {_text(total)}.")
    for name, cap in caps.items():
        given = sum(slot.weight * slot.given.get(name, 0) for slot in slots)
        if given > cap:
            raise ValueError(over_cap(name, given, cap))
    # Lowering one source raises others, which may then exceed their caps. A lowered source is no longer open, so the loop ends.
    while over := next((name for name, cap in caps.items() if _used(slots, name) > cap), None):
        slots = _lowered(slots, over, caps[over])
    return [slot.given | dict.fromkeys(slot.open, slot.each()) for slot in slots]


def _used(slots: list[_Slot], name: str) -> Fraction:
    """Returns the part of the budget that a source with open shares takes; 0 if none of its shares is open."""
    return sum(slot.weight * slot.share(name) for slot in slots) if any(name in slot.open for slot in slots) else Fraction(0)


def _lowered(slots: list[_Slot], name: str, cap: Fraction) -> list[_Slot]:
    """Returns the slots with a source's open shares lowered to its cap.

    A share cannot be lowered in a slot without another open share, since no other share could fill the rest.
    """
    flexible = sum(slot.weight * slot.each() for slot in slots if name in slot.open and len(slot.open) > 1)
    excess = _used(slots, name) - cap
    if excess > flexible:
        stuck = ", ".join(slot.where for slot in slots if slot.open == (name,))
        raise ValueError(
            f"{over_cap(name, cap + excess - flexible, cap)[:-1]} "
            f"(no other share is open in {stuck}: name another source there without a share)."
        )
    # A share that is the only open share of its slot is not lowered, since no other share could fill the rest.
    factor = 1 - excess / flexible
    if not factor:
        raise ValueError(
            f"{name}: its given shares use its whole cap of {_text(cap)}; remove it from the stages where its share is open."
        )
    return [
        slot.fixed(name, slot.each() * (factor if len(slot.open) > 1 else 1)) if name in slot.open else slot for slot in slots
    ]


def _text(share: Fraction) -> str:
    return f"{100 * float(share):.6g}%"
