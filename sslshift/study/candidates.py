"""Candidates on which a study spends its budget: each source with each of its numbers of unique samples, and each mixture."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sslshift.budget import Budget
from sslshift.data.mixture import Mixture, single
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import Declaration
from sslshift.data.plan import SamplePlan
from sslshift.data.source_text import short_names
from sslshift.data.sources import Source, parse_uri
from sslshift.study.design import Design

# Names of baselines in tables.
RESERVED = ("untrained encoder", "initial encoder", "raw pixels")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to spend the budget.

    Attributes:
      name: name in tables: the URI of a source, or the name of a mixture (its text if it has no name).
      mixture: components of the candidate, whose sources are named by their URIs.
      text: text of a mixture; empty for a single source.
    """

    name: str
    mixture: Mixture
    text: str = ""

    @property
    def unique(self) -> int:
        """N over all stages."""
        return self.mixture.unique


def open_candidates(design: Design, open_: Callable[[str], Source]) -> tuple[dict[str, Source], list[Candidate]]:
    """Opens every source that a study names, and checks that its candidates fit into sources and budget.

    Args:
      design: design of the study.
      open_: function that opens a source by its URI.

    Returns:
      The sources by URI, and the candidates in the order of the declaration, mixtures last.

    Raises:
      ValueError: two mixtures have the same name, or a number is too large for its source or the budget.
    """
    uris = [each.uri for each in design.sources]
    uris += [uri for declaration in design.mixtures for uri in declaration.uris.values()]
    _require_one_spelling(uris)
    sources = {uri: open_(uri) for uri in dict.fromkeys(uris)}
    candidates = []
    for levels in design.sources:
        size = len(sources[levels.uri])
        # A run cannot see more unique samples than its budget.
        whole = min(size, design.budget.samples)
        # All images may be one of the numbers, too.
        for unique in dict.fromkeys(whole if unique is None else unique for unique in levels.unique or (None,)):
            candidates.append(Candidate(levels.uri, single(levels.uri, size, unique)))
    candidates += [_mixed(declaration, sources, design.budget) for declaration in design.mixtures]
    _require_names(
        [each for each in candidates if each.text], {name for each in design.sources for name in (each.uri, each.name)}
    )
    for candidate in candidates:
        # A plan that cannot be made is reported before anything is trained.
        sample_plan(candidate.mixture, design.budget, design.batch_size, sources, seed=0, draw=0)
    return sources, candidates


def names_of(design: Design, uris: Iterable[str]) -> dict[str, str]:
    """Returns the name of each source, by its URI, in tables, figures and sentences.

    It is the name in `--sources`, or else the name in the mixtures if they agree, or else a part of the URI. The results table
    and the records of runs have the URI: names may change without changing a result.
    """
    uris = list(uris)
    in_mixtures: dict[str, set[str]] = {}
    for declaration in design.mixtures:
        for name, uri in declaration.uris.items():
            in_mixtures.setdefault(uri, set()).update({name} - {uri})
    given = {uri: next(iter(names)) for uri, names in in_mixtures.items() if len(names) == 1}
    given |= {each.uri: each.name for each in design.sources if each.name}
    short = dict(zip(uris, short_names(uris), strict=True))
    found = short | given
    # A name that stands for two things would merge them in every table.
    taken = [*found.values(), *(each.name for each in design.mixtures), *RESERVED]
    return {uri: name if taken.count(name) == 1 else uri for uri, name in found.items()}


def named_candidate(candidate: Candidate, names: Mapping[str, str]) -> Candidate:
    """Returns a candidate with names in place of the URIs of its sources; a mixture without a name is called by them."""
    mixture = candidate.mixture
    stages = tuple(
        dataclasses.replace(
            stage, components=tuple(dataclasses.replace(part, source=names[part.source]) for part in stage.components)
        )
        for stage in mixture.stages
    )
    caps = tuple((names[uri], cap) for uri, cap in mixture.caps)
    return Candidate(named_text(candidate.name, names), Mixture(stages, caps), candidate.text)


def named_text(text: str, names: Mapping[str, str]) -> str:
    """Returns the name of a candidate with names in place of URIs.

    Example:
      >>> named_text("near:folder:/a?labels=folder@10*0.7 + folder:/b", {"folder:/a?labels=folder": "near", "folder:/b": "b"})
      'near@10*0.7 + b'
    """
    # A longer URI may begin with a shorter one.
    for uri in sorted(names, key=len, reverse=True):
        text = re.sub(rf"(?:\b[A-Za-z_][\w.-]*:)?{re.escape(uri)}", lambda _, uri=uri: names[uri], text)
    return text


def _require_names(mixtures: Sequence[Candidate], sources: set[str]) -> None:
    """Raises ValueError unless mixtures have names of their own, or are one mixture with several numbers of unique samples."""
    names = [each.name for each in mixtures]
    if set(names) & sources:
        raise ValueError(f"--mixture: each mixture needs a name of its own, as in 'NAME = ...'; got {', '.join(names)}.")
    for name, several in itertools.groupby(sorted(mixtures, key=lambda each: each.name), key=lambda each: each.name):
        first, *others = several
        for other in others:
            # A name stands for one shift index and one trend.
            if _without_unique(first.mixture) != _without_unique(other.mixture):
                raise ValueError(
                    f"--mixture: two mixtures are called {name!r}, but differ in more than N; give each a name of its own, as "
                    "in 'NAME = ...'. Mixtures of one name differ only in their numbers of unique samples."
                )
        unique = [each.unique for each in (first, *others)]
        if len(set(unique)) < len(unique):
            raise ValueError(
                f"--mixture: two mixtures are called {name!r} and have {max(unique, key=unique.count):,} unique samples; give "
                "each a name of its own, as in 'NAME = ...'."
            )


def _without_unique(mixture: Mixture) -> list[tuple]:
    return [(stage.share, part.source, *part.ends, part.subset) for stage in mixture.stages for part in stage.components]


def _require_one_spelling(uris: Iterable[str]) -> None:
    """Raises ValueError if two of the texts are spellings of one URI, whose images would count twice."""
    # `folder:/a b` and `folder:/a%20b` are one folder; as two sources its images would count twice in N.
    spellings: dict[str, str] = {}
    for uri in uris:
        other = spellings.setdefault(str(parse_uri(uri)), uri)
        if other != uri:
            raise ValueError(f"--sources, --mixture: {other} and {uri} are the same source; write it the same way everywhere.")


def _mixed(declaration: Declaration, sources: Mapping[str, Source], budget: Budget) -> Candidate:
    sizes = {name: len(sources[uri]) for name, uri in declaration.uris.items()}
    mixture = _by_uri(resolve(declaration, sizes, budget), declaration.uris)
    return Candidate(declaration.name or str(declaration), mixture, str(declaration))


def _by_uri(mixture: Mixture, uris: Mapping[str, str]) -> Mixture:
    """Returns the mixture with its sources named by their URIs, because each mixture has its own names for them."""
    stages = tuple(
        dataclasses.replace(
            stage, components=tuple(dataclasses.replace(part, source=uris[part.source]) for part in stage.components)
        )
        for stage in mixture.stages
    )
    return Mixture(stages, tuple((uris[name], cap) for name, cap in mixture.caps))


def sample_plan(
    mixture: Mixture, budget: Budget, batch_size: int, sources: Mapping[str, Source], *, seed: int, draw: int
) -> SamplePlan:
    """Returns the sample plan of a run: `seed` decides the order, `draw` the subsets."""
    # Labels of a large source are slow to read, and only stratified subsets need them.
    stratified = {part.source for stage in mixture.stages for part in stage.components if part.subset != "random"}
    labels = {uri: _labels(sources[uri]) for uri in stratified}
    return SamplePlan(mixture, budget, batch_size, seed=seed, subset_seed=draw, labels=labels)


def _labels(source: Source) -> np.ndarray:
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels to draw a subset by (for folders: ?labels=folder).")
    return source.labels
