"""SSL methods on encoders, each with its own settings: what a study that names several of them trains."""

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

from clu.parameter_overview import count_parameters
from jax import lax

from sslshift.budget import Budget
from sslshift.command import parsed
from sslshift.data.decode import Canvas
from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.study.build import build_training, method_options, options_given
from sslshift.study.declare import Study
from sslshift.training.loop import Training, traced_step
from sslshift.training.programs import step_flops

# Fields of a study that --for_method may set for one method; any other name there is an option of the method.
OWN_FIELDS = (
    "encoder",
    "dtype",
    "head",
    "optimiser",
    "learning_rate",
    "weight_decay",
    "warmup",
    "min_crop_scale",
    "jitter",
    "blur",
    "flip",
)

# Of a study's fields those that change a run and are recorded as they are given; what a recipe resolves is recorded so.
_RECORDED = ("batch_size", "method", "encoder", "dtype")


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """An SSL method on an encoder, as a study trains it.

    Attributes:
      study: the study of this method on this encoder alone.
      training: method and optimiser, built.
      budget: C in whole batches.
      canvas: what every image is brought to.
    """

    study: Study
    training: Training
    budget: Budget
    canvas: Canvas

    @property
    def key(self) -> tuple[str, str]:
        """The names of method and encoder."""
        return self.study.method, self.study.encoder

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """What the training of all its runs shares; how encoders are judged is recorded with each judgement."""
        settings = {name: getattr(self.study, name) for name in _RECORDED}
        resolved = {
            "budget": self.budget.samples,
            "canvas": self.canvas,
            "method_options": method_options(self.study),
            "optimiser": dataclasses.asdict(self.training.optimiser),
            "views": [dataclasses.asdict(view) for view in self.training.method.views],
        }
        return settings | resolved

    @property
    def steps(self) -> int:
        """Of every run."""
        return self.budget.steps(self.study.batch_size)

    @functools.cached_property
    def flops(self) -> float:
        """Of one training step; traces it and computes nothing."""
        # XLA does not see how often the loop of our own convolution runs.
        plain = build_training(self.study, lax.conv_general_dilated)
        return step_flops(plain, self.canvas, self.study.batch_size)

    @functools.cached_property
    def parameters(self) -> int:
        """Number of the encoder's parameters; traces a training step and computes nothing."""
        return count_parameters(traced_step(self.training, self.canvas, self.study.batch_size).params["encoder"])

    def __str__(self) -> str:
        return f"{self.study.method} on {self.study.encoder}"


def single_studies(study: Study) -> list[Study]:
    """A study of several methods and encoders as one study of each, in the order in which they are named.

    Example:
      >>> study = Study(method="simclr,byol", for_method=("byol: learning_rate=2e-3; predictor=512",))
      >>> [(one.method, one.learning_rate, one.method_options) for one in single_studies(study)]
      [('simclr', -1.0, ''), ('byol', 0.002, 'predictor=512')]

    Args:
      study: names methods and encoders separated by ','; `for_method` says what is a method's own.

    Raises:
      ValueError: a name is unknown or named twice, or `for_method` cannot be read.
    """
    own: dict[str, dict[str, Any]] = {}
    for text in study.for_method:
        method, settings = parse_own(text)
        own[method] = own.get(method, {}) | settings
    studies = []
    for method in _names("method", study.method, METHODS):
        settings = own.get(method, {})
        fields = {name: value for name, value in settings.items() if name in OWN_FIELDS}
        options = options_given(study) | {name: value for name, value in settings.items() if name not in OWN_FIELDS}
        text = "; ".join(f"{name}={value}" for name, value in options.items())
        for encoder in _names("encoder", fields.pop("encoder", study.encoder), ENCODERS):
            single = {"method": method, "encoder": encoder, "method_options": text, "for_method": ()}
            studies.append(dataclasses.replace(study, **fields | single))
    return studies


def parse_own(text: str) -> tuple[str, dict[str, Any]]:
    """One `--for_method` as the method's name and its settings: a study's fields as values, the method's options as text.

    Example:
      >>> parse_own("mae: encoder=vit_nano4; learning_rate=1e-3; decoder_depth=2")
      ('mae', {'encoder': 'vit_nano4', 'learning_rate': 0.001, 'decoder_depth': '2'})

    Raises:
      ValueError: it cannot be read, or the method is unknown.
    """
    method, colon, rest = (part.strip() for part in text.partition(":"))
    if not colon or method not in METHODS:
        raise ValueError(
            f"--for_method is written 'METHOD: NAME=VALUE; NAME=VALUE' with METHOD one of {', '.join(METHODS)}; got {text!r}."
        )
    defaults = {field.name: field.default for field in dataclasses.fields(Study)}
    settings: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(";"))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or (name in defaults and name not in OWN_FIELDS):
            raise ValueError(
                f"--for_method: {part!r} is no setting of one method, which are {', '.join(OWN_FIELDS)} and its options."
            )
        settings[name] = parsed(f"--for_method: {name}", value, defaults[name]) if name in OWN_FIELDS else value
    return method, settings


def without_given(for_method: Sequence[str], given: Collection[str]) -> tuple[str, ...]:
    """What remains of settings per method where others were given by hand for all methods, which win.

    Example:
      >>> without_given(("byol: learning_rate=2e-3; predictor=512",), {"learning_rate"})
      ('byol: predictor=512',)
    """
    left = []
    for text in for_method:
        method, settings = parse_own(text)
        kept = [f"{name}={value}" for name, value in settings.items() if name not in given]
        left += [f"{method}: {'; '.join(kept)}"] if kept else []
    return tuple(left)


def open_learners(study: Study, budget: Budget, canvas: Canvas, trainings: Sequence[Training] | None = None) -> list[Learner]:
    """What a study trains, built and traced: settings that do not fit each other, or the images, show here.

    Args:
      study: the declaration.
      budget: C in whole batches.
      canvas: what every image is brought to.
      trainings: of the single studies, if they are built already.

    Raises:
      ValueError: a name is unknown, a value is out of its range, or an encoder does not take images of this shape.
    """
    singles = single_studies(study)
    trainings = trainings or [build_training(single) for single in singles]
    learners = [Learner(single, each, budget, canvas) for single, each in zip(singles, trainings, strict=True)]
    for learner in learners:
        # Counting traces a step: an encoder that does not take such images, or a loss its batch, says so now.
        _ = learner.parameters
    return learners


def _names(what: str, text: str, known: Collection[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"--{what}={name} is unknown; there is {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"--{what}={text} names one of them twice.")
    return names
