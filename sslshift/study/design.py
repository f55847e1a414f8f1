"""The design of a study: its declaration, parsed.

`Study` holds text, as flags give it. `parse_study` turns the text into typed objects once, when a command starts, and reports
every mistake that can be found without opening a source. No other module of this package parses the text.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from sslshift.budget import Budget
from sslshift.data.mixture_text import Declaration, parse_mixture
from sslshift.data.source_text import parse_given_name
from sslshift.data.sources import SCHEMES
from sslshift.data.sources.uri import Uri, parse_uri
from sslshift.models import FEATURES
from sslshift.models.opening import open_encoder
from sslshift.shards import StudyShard, parse_shard
from sslshift.shift.distances import index_distance
from sslshift.shift.index import require_far_end
from sslshift.study.declare import Study
from sslshift.study.learners import LearnerSettings, parse_learners
from sslshift.training.accumulation import require_equal_parts
from sslshift.training.events import require_tensorboard
from sslshift.training.profile import StepWindow, parse_window
from sslshift.transfer.declaration import TaskDeclaration, parse_split, parse_task, require_different_names
from sslshift.transfer.protocol import parse_evaluations

# Primary hypotheses that a study can declare.
PRIMARY = {
    "diversity": "accuracy changes with diversity for the source nearest to the task",
    "shift": "the effect of diversity changes with the shift of the source",
    "source": "pretraining on the nearest source gains over the untrained encoder, or over that of --init",
    "mixture": "the first mixture differs from the nearest source",
}


@dataclasses.dataclass(frozen=True)
class SourceLevels:
    """A source that a study compares.

    Attributes:
      uri: its URI.
      unique: numbers of unique samples to try; None stands for all images, and so does an empty tuple.
      name: name in tables, figures and sentences; empty if none was given.
    """

    uri: str
    unique: tuple[int | None, ...] = ()
    name: str = ""


@dataclasses.dataclass(frozen=True)
class ShiftSettings:
    """Settings of a study's shift index.

    Attributes:
      images: largest number of images on each side; 0: the study has no shift index.
      distance: name of the distance behind the index.
      far_end: name of what an index of 1 means.
      encoder: file or run of the encoder whose features are compared; empty: the study trains reference encoders.
      seeds: number of reference encoders; 0 with an encoder from elsewhere.
    """

    images: int
    distance: str
    far_end: str
    encoder: str
    seeds: int


@dataclasses.dataclass(frozen=True, eq=False)
class Design:
    """Parsed study: everything that it compares, with all settings.

    Attributes:
      sources: candidates of one source each.
      mixtures: candidates of several sources.
      tasks: tasks on which encoders are evaluated; the first is the main task.
      evaluations: evaluations by name; the linear probe is among them.
      features: name of the features to evaluate.
      learners: methods on encoders, in the order of the declaration.
      budget: C, in whole batches.
      batch_size: number of images in a training step, over all devices.
      seeds: number of training seeds.
      untrained_seeds: number of seeds of untrained encoders, at least that of training seeds.
      draws: number of draws of each subset; 0: each seed draws its own.
      image_size: side of all images; 0: the side of the downstream images.
      online_every: steps between reports of the online probe; 0: no reports.
      primary: the primary hypothesis, one of `PRIMARY`.
      wanted_difference: difference that the study should show, as a share.
      shift: settings of the shift index.
      workers: number of processes that read images.
      tensorboard: whether scalars are also written as TensorBoard events.
      profile: steps to trace in the first run that takes them; None: none.
      hang_after: seconds without a finished step after which the stacks of all threads are written; 0: never.
      device_memory: largest share of an accelerator's free memory for training images.
      steps_per_dispatch: training steps in one program; 0: chosen from the FLOPs of a step.
      shard: part of the runs that this process trains; None: all of them.
      price_per_hour: price of an hour of training.
      out: folder of the study.
      declared: the declaration, for the report's list of settings.
    """

    sources: tuple[SourceLevels, ...]
    mixtures: tuple[Declaration, ...]
    tasks: tuple[TaskDeclaration, ...]
    evaluations: Mapping[str, Any]
    features: str
    learners: tuple[LearnerSettings, ...]
    budget: Budget
    batch_size: int
    seeds: int
    untrained_seeds: int
    draws: int
    image_size: int
    online_every: int
    primary: str
    wanted_difference: float
    shift: ShiftSettings
    workers: int
    tensorboard: bool
    profile: StepWindow | None
    hang_after: float
    device_memory: float
    steps_per_dispatch: int
    shard: StudyShard | None
    price_per_hour: float
    out: Path
    declared: Study

    @property
    def steps(self) -> int:
        """Training steps of every run."""
        return self.budget.steps(self.batch_size)

    @property
    def primary_mixture(self) -> str:
        """Name of the first mixture; empty without mixtures."""
        return next((each.name or str(each) for each in self.mixtures), "")

    @property
    def replicates(self) -> list[tuple[int, int]]:
        """The (draw, seed) pairs with which every candidate is trained."""
        # If no draws are set, the training seed also draws the subset.
        crossed = [(draw, seed) for draw in range(self.draws) for seed in range(self.seeds)]
        return crossed or [(seed, seed) for seed in range(self.seeds)]


def parse_study(study: Study) -> Design:
    """Returns the design that a declaration describes.

    Raises:
      ValueError: a setting cannot be read, is out of range, or does not fit another; the message names the flag.
    """
    learners = parse_learners(study)
    for learner in learners:
        require_equal_parts(study.batch_size, jax.device_count(), learner.accumulate, name="--batch_size=")
    if study.tensorboard:
        require_tensorboard()
    budget = Budget(study.budget).whole_batches(study.batch_size)
    sources = tuple(parse_sources(study.sources)) if study.sources.strip() or not study.mixture else ()
    known = {each.name: each.uri for each in sources if each.name}
    return Design(
        sources=sources,
        # Mixtures may use the names of sources.
        mixtures=tuple(parse_mixture(text, SCHEMES, known=known or None) for text in study.mixture),
        tasks=tuple(_tasks(study)),
        evaluations=_evaluations(study),
        features=study.features,
        learners=learners,
        budget=budget,
        batch_size=study.batch_size,
        seeds=study.seeds,
        untrained_seeds=study.seeds if study.init else max(study.seeds, study.untrained_seeds),
        draws=study.draws,
        image_size=study.image_size,
        online_every=study.online_every,
        primary=_primary(study),
        wanted_difference=study.wanted_difference / 100,
        shift=_shift(study),
        workers=study.workers,
        tensorboard=study.tensorboard,
        profile=parse_window(study.profile, budget.steps(study.batch_size)),
        hang_after=study.hang_after,
        device_memory=study.device_memory,
        steps_per_dispatch=study.steps_per_dispatch,
        shard=parse_shard(study.shard),
        price_per_hour=study.price_per_hour,
        out=Path(study.out),
        # The report shows the runs of all shards.
        declared=dataclasses.replace(study, shard=""),
    )


def _shift(study: Study) -> ShiftSettings:
    # Distance and encoder are first used after the baselines; they are checked here to report mistakes early.
    index_distance(study.shift_distance)
    require_far_end(study.shift_far_end)
    if study.shift_encoder:
        open_encoder(study.shift_encoder)
    seeds = 0 if study.shift_encoder else study.reference_seeds
    return ShiftSettings(study.shift_images, study.shift_distance, study.shift_far_end, study.shift_encoder, seeds)


def parse_sources(text: str) -> list[SourceLevels]:
    """Returns the sources in `"NAME = URI@N,N,all; URI"`.

    In a URI, every character can be written as `%` and two hexadecimal digits, and must be so written where it would end the
    URI: `%3B` for `;`, `%3F` for `?`, and `%40` for an `@` before numbers; see `sslshift.data.sources.uri`.

    Example:
      >>> parse_sources("digits = bundled:mnist@10,4_000,all; synthetic:noise?size=100")[0]
      SourceLevels(uri='bundled:mnist', unique=(10, 4000, None), name='digits')

    Raises:
      ValueError: the text names no source, or names a source, a name or one of its numbers twice.
    """
    parsed: list[SourceLevels] = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        parsed.append(_source_levels(part, after=bool(parsed)))
    # Two spellings of one URI are the same source.
    names = [str(parse_uri(each.uri)) for each in parsed]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"--sources must name at least one source, and each source only once; got {text!r}.")
    given = [each.name for each in parsed if each.name]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice:
        raise ValueError(f"--sources: two sources are called {twice!r}; give each a name of its own.")
    return parsed


def _source_levels(part: str, *, after: bool) -> SourceLevels:
    """Returns the source of one piece of `--sources`; `after` says whether a ';' is in front of it."""
    # An '@' that no number follows belongs to the URI: names of folders may contain one.
    number = r"(?:[0-9][0-9_]*|all)"
    match = re.fullmatch(rf"(?P<uri>.*?)(?P<space>\s*)@(?P<numbers>{number}(?:\s*,\s*{number})*)", part, re.DOTALL)
    uri, numbers = match.group("uri", "numbers") if match else (part, "")
    try:
        name, uri = parse_given_name(uri, "--sources")
    except ValueError as error:
        # The piece may be the rest of a path.
        hint = " Sources are separated by ';'; write ';' in a path as %3B." if after else ""
        raise ValueError(f"{error}{hint}") from error
    named = parse_uri(uri)
    if "@" in named.path and not SCHEMES[named.scheme].files:
        raise ValueError(
            f"--sources: expected a URI with '@' and whole numbers (or all) separated by ',', got {part!r}; sources are "
            "separated by ';'."
        )
    if match and not match["space"] and SCHEMES[named.scheme].files and not named.options:
        _require_no_such_path(named, numbers)
    unique = tuple(None if each.strip() == "all" else int(each) for each in filter(None, numbers.split(",")))
    if len(set(unique)) < len(unique):
        raise ValueError(f"--sources: {part!r} repeats a number of unique samples.")
    return SourceLevels(uri, () if unique == (None,) else unique, name)


def _require_no_such_path(uri: Uri, numbers: str) -> None:
    """Raises ValueError if the '@' and the numbers after a URI could as well be the end of its path."""
    literal = f"{uri.path}@{numbers}"
    if os.path.lexists(os.path.expanduser(literal)):
        raise ValueError(
            f"--sources: {uri.scheme}:{literal} may mean {numbers} images of {uri.path}, or the path {literal}, which exists. "
            f"Write '{uri} @{numbers}' with a space for the first, and '{Uri(uri.scheme, literal)}' for the second."
        )


def _primary(study: Study) -> str:
    if study.primary not in PRIMARY:
        raise ValueError(f"Expected one of {', '.join(PRIMARY)} for --primary, got {study.primary!r}.")
    if study.primary == "mixture" and not (study.mixture and study.sources.strip()):
        raise ValueError(
            "--primary=mixture compares the first --mixture with the nearest of --sources, and needs at least one of each."
        )
    return study.primary


def _evaluations(study: Study) -> dict[str, Any]:
    evaluations = parse_evaluations(study.evaluations, study.evaluation_options)
    if "linear" not in evaluations:
        raise ValueError(
            f"--evaluations={study.evaluations} must include linear: the primary hypothesis is about the linear probe."
        )
    if study.features not in FEATURES:
        raise ValueError(f"Expected one of {', '.join(FEATURES)} for --features, got {study.features!r}.")
    return evaluations


def _tasks(study: Study) -> list[TaskDeclaration]:
    """Returns the tasks that a study names, --downstream first."""
    first, *others = (parse_task(text) for text in (study.downstream, *study.task))
    if study.downstream_test:
        if re.search(r";\s*test\s*=", study.downstream):
            raise ValueError(
                f"--downstream={study.downstream} and --downstream_test={study.downstream_test} both name a test split; "
                "give one of them."
            )
        first = dataclasses.replace(first, test=parse_split(study.downstream_test))
    declared = [dataclasses.replace(each, labelled=each.labelled or study.labelled) for each in (first, *others)]
    require_different_names(declared)
    return declared
