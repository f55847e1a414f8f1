"""What a study compares: each source with each of its numbers of unique samples, and each mixture."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from sslshift.budget import Budget
from sslshift.data.mixture import Mixture, single
from sslshift.data.mixture_resolve import resolve
from sslshift.data.mixture_text import Declaration, parse_mixture
from sslshift.data.plan import SamplePlan
from sslshift.data.sources import SCHEMES, Source, parse_uri
from sslshift.study.declare import Study, parse_sources


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to spend the budget.

    Attributes:
      name: what tables call it: a source's URI, or a mixture's name (its text if it has none).
      mixture: its sources by their URIs.
      text: a mixture as it was written; empty for one source alone.
    """

    name: str
    mixture: Mixture
    text: str = ""

    @property
    def unique(self) -> int:
        """N over all stages."""
        return self.mixture.unique


def open_candidates(study: Study, budget: Budget, open_: Callable[[str], Source]) -> tuple[dict[str, Source], list[Candidate]]:
    """Opens every source that a study names, and checks that what it asks for fits into sources and budget.

    Args:
      study: the declaration.
      budget: C in whole batches.
      open_: opens a source.

    Returns:
      The sources by URI, and the candidates in the order in which they are named, mixtures last.

    Raises:
      ValueError: nothing is named, a name stands for two mixtures, or numbers do not fit each other.
    """
    wanted = parse_sources(study.sources) if study.sources.strip() or not study.mixture else []
    declared = [parse_mixture(text, SCHEMES) for text in study.mixture]
    uris = [uri for uri, _ in wanted] + [uri for declaration in declared for uri in declaration.uris.values()]
    _require_one_spelling(uris)
    sources = {uri: open_(uri) for uri in dict.fromkeys(uris)}
    candidates = []
    for uri, numbers in wanted:
        for unique in numbers or (min(len(sources[uri]), budget.samples),):
            candidates.append(Candidate(uri, single(uri, len(sources[uri]), unique)))
    candidates += [_mixed(declaration, sources, budget) for declaration in declared]
    names = [candidate.name for candidate in candidates if candidate.text]
    if len(set(names)) < len(names) or set(names) & {uri for uri, _ in wanted}:
        raise ValueError(f"--mixture: each mixture needs a name of its own, as in 'NAME = ...'; got {', '.join(names)}.")
    for candidate in candidates:
        sample_plan(candidate.mixture, budget, study.batch_size, sources, seed=0, draw=0)
    return sources, candidates


def _require_one_spelling(uris: Iterable[str]) -> None:
    """Raises ValueError where two of the texts are one URI: its images would count twice."""
    spellings: dict[str, str] = {}
    for uri in uris:
        other = spellings.setdefault(str(parse_uri(uri)), uri)
        if other != uri:
            raise ValueError(f"--sources, --mixture: {other} and {uri} are one source; write it in the same way everywhere.")


def _mixed(declaration: Declaration, sources: Mapping[str, Source], budget: Budget) -> Candidate:
    sizes = {name: len(sources[uri]) for name, uri in declaration.uris.items()}
    mixture = _by_uri(resolve(declaration, sizes, budget), declaration.uris)
    return Candidate(declaration.name or str(declaration), mixture, str(declaration))


def _by_uri(mixture: Mixture, uris: Mapping[str, str]) -> Mixture:
    """The mixture with its sources called by their URIs: one mixture's names mean nothing to another."""
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
    """The plan of a run: `seed` names the order, `draw` the subsets."""
    stratified = {part.source for stage in mixture.stages for part in stage.components if part.subset != "random"}
    labels = {uri: _labels(sources[uri]) for uri in stratified}
    return SamplePlan(mixture, budget, batch_size, seed=seed, subset_seed=draw, labels=labels)


def _labels(source: Source) -> np.ndarray:
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels to draw a subset by (for folders: ?labels=folder).")
    return source.labels
