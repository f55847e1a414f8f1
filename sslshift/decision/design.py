"""The design of pilots: the budgets, and the numbers of unique samples of each source, that a law can be identified from.

At one budget, few unique samples mean many epochs, and a law cannot separate their effects: twelve simulated pilots at one
budget put a repetition constant of 15 between 6 and 94, and twelve over two budgets between 13 and 17. The pilots therefore
have a budget and a fourth of it, three numbers of epochs of each source at each of them, and three seeds of all, which
separate the variance of a seed from that of a run.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from sslshift.budget import Budget
from sslshift.study.declare import Study
from sslshift.study.design import SourceLevels, parse_sources

# Ratio of the two budgets.
_RATIO = 4
FEWEST_SEEDS = 3
_FEWEST_LEVELS = 3
# A power law in N takes as many numbers of unique samples.
_FEWEST_SIZES = 5
# Fewest images of a source, and fewest unique samples of a run at the larger and at the smaller budget.
FEWEST_IMAGES = 32
_FEWEST_UNIQUE = (8, 4)
# Ratio of the largest to the smallest number of unique samples at each budget. The largest number is used at both budgets, and
# the others differ, so that N and E vary both together and alone.
_SPREAD = (16, 64)


@dataclasses.dataclass(frozen=True)
class PilotStudy(Study):
    """Pilots: a study whose budget is the larger of two. Its sources have no numbers of unique samples, or those to try."""

    prices: str = dataclasses.field(
        default="",
        metadata={
            "help": "TOML file of prices, as in tools.plan: it is checked before anything is trained, and --dry_run then shows "
            "the price of the training."
        },
    )


def pilot_levels(images: int, budgets: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns three numbers of unique samples of a source at each budget, five different ones in all.

    Example:
      >>> pilot_levels(2000, (40_960, 10_240))
      ((125, 500, 2000), (31, 249, 2000))

    Args:
      images: number of images of the source, at least `FEWEST_IMAGES`.
      budgets: the larger and the smaller budget.
    """
    found = []
    for budget, spread, fewest in zip(budgets, _SPREAD, _FEWEST_UNIQUE, strict=True):
        most = min(images, budget)
        least = max(fewest, most // spread)
        found.append((least, round(math.sqrt(least * most)), most))
    return found[0], found[1]


def pilot_budgets(study: Study) -> tuple[int, int]:
    """Returns the larger and the smaller budget, in whole batches.

    Raises:
      ValueError: the smaller one has no batch, or fewer samples than the fewest images of a source.
    """
    fewest = _RATIO * max(study.batch_size, FEWEST_IMAGES)
    if study.budget < fewest:
        raise ValueError(
            f"--budget={study.budget}: pilots are trained at a fourth of this budget too. Expected at least {fewest:,} "
            f"samples, so that the fourth has a batch of {study.batch_size:,}."
        )
    larger = Budget(study.budget).whole_batches(study.batch_size)
    return larger.samples, Budget(larger.samples // _RATIO).whole_batches(study.batch_size).samples


def without_levels(study: PilotStudy) -> Study:
    """Returns a plain study of all images of the sources, which says how many images there are.

    Raises:
      ValueError: the pilots have mixtures, too few seeds, or too small a budget.
    """
    if study.mixture:
        raise ValueError(
            f"--mixture={study.mixture[0]}: pilots train on one source each, from which a plan predicts mixtures. Compare "
            "mixtures with another experiment."
        )
    if study.seeds < FEWEST_SEEDS:
        raise ValueError(
            f"--seeds={study.seeds}: expected at least {FEWEST_SEEDS}. Without repeats, the noise of a run is not known, and "
            "no law can be fitted."
        )
    pilot_budgets(study)
    sources = [dataclasses.replace(each, unique=()) for each in parse_sources(study.sources)]
    return _plain(study, sources=_text(sources))


def pilot_studies(study: PilotStudy, sizes: Mapping[str, int]) -> tuple[Study, Study]:
    """Returns the studies at the larger and at the smaller budget.

    Args:
      study: the declaration.
      sizes: number of images of each source, by its URI.

    Raises:
      ValueError: a source has too few images, or the numbers that were given for it are too few.
    """
    sources = parse_sources(study.sources)
    budgets = pilot_budgets(study)
    _require_images([each for each in sources if not each.unique], sizes)
    levels = [_given(each, sizes[each.uri], budgets) or pilot_levels(sizes[each.uri], budgets) for each in sources]
    if len(different := {unique for both in levels for each in both for unique in each}) < _FEWEST_SIZES:
        raise ValueError(
            f"--sources: expected at least {_FEWEST_SIZES} different numbers of unique samples, got {_listed(different)}. List "
            "more of them after '@', or none: they are then chosen."
        )
    larger, smaller = (
        _plain(
            study,
            sources=_text([dataclasses.replace(each, unique=own[place]) for each, own in zip(sources, levels, strict=True)]),
            budget=budget,
            out=f"{study.out.rstrip('/')}/budget_{budget}",
        )
        for place, budget in enumerate(budgets)
    )
    # One index serves both: other encoders would measure another one, and a source has one place in a law.
    return larger, dataclasses.replace(smaller, shift_images=0)


def _plain(study: PilotStudy, **changes) -> Study:
    values = {field.name: getattr(study, field.name) for field in dataclasses.fields(Study)}
    return Study(**values | changes)


def _text(sources: Sequence[SourceLevels]) -> str:
    """Returns sources as text of `--sources`."""
    texts = []
    for each in sources:
        # With a space, the numbers cannot be taken for the end of a path.
        numbers = f" @{','.join(map(str, each.unique))}" if each.unique else ""
        texts.append(f"{each.name} = {each.uri}{numbers}" if each.name else f"{each.uri}{numbers}")
    return "; ".join(texts)


def _require_images(sources: Sequence[SourceLevels], sizes: Mapping[str, int]) -> None:
    few = [each for each in sources if sizes[each.uri] < FEWEST_IMAGES]
    if few:
        counts = ", ".join(f"{each.name or each.uri} has {sizes[each.uri]}" for each in few)
        raise ValueError(
            f"--sources: expected at least {FEWEST_IMAGES} images in each source, for three numbers of epochs at each of two "
            f"budgets; {counts}. Add images, or exclude the source."
        )


def _given(source: SourceLevels, size: int, budgets: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the numbers that were given for a source at each budget; None without any."""
    if not source.unique:
        return None
    found = []
    for budget in budgets:
        every = {min(size, budget) if each is None else each for each in source.unique}
        own = tuple(sorted(each for each in every if each <= budget))
        if len(own) < _FEWEST_LEVELS:
            raise ValueError(
                f"--sources: {source.name or source.uri} has the numbers {_listed(every)} of unique samples, of which "
                f"{len(own)} can be seen with a budget of {budget:,}. Expected at least {_FEWEST_LEVELS}, or none after '@': "
                "they are then chosen."
            )
        found.append(own)
    return found[0], found[1]


def _listed(numbers) -> str:
    return ", ".join(f"{each:,}" for each in sorted(numbers))
