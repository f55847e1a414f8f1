"""Learners: SSL methods on encoders, each with its own settings. A study trains every candidate with each learner."""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from clu.parameter_overview import count_parameters

from sslshift.budget import Budget
from sslshift.clock import Clock
from sslshift.command import parsed, settings
from sslshift.data.decode import Canvas
from sslshift.data.views import ViewSettings
from sslshift.methods import METHODS, Method
from sslshift.methods.base import continued
from sslshift.models import ENCODERS, PretrainedEncoder, ViT
from sslshift.models.initial import architecture_name, fitted
from sslshift.models.opening import open_encoder
from sslshift.study.declare import OWN_FLAGS, Study, parse_own
from sslshift.training import Optimiser, Training
from sslshift.training.guards import ON_NONFINITE, STOP
from sslshift.training.loop import OnStep, traced_step
from sslshift.training.programs import peak_flops, step_flops
from sslshift.training.sharding import REPLICATED, SHARDINGS, bytes_per_device
from sslshift.training.step import TrainState, make_mesh

DTYPES = ("float32", "bfloat16")
# Layer decay of DINOv2's training (https://github.com/facebookresearch/dinov2, dinov2/configs/ssl_default_config.yaml).
_VIT_DECAY = 0.9


@dataclasses.dataclass(frozen=True, eq=False)
class LearnerSettings:
    """A method on an encoder with all its settings: the recipe, changed by the flags.

    Attributes:
      method: name of the method in `METHODS`.
      encoder: name of the encoder in `ENCODERS`, or of the architecture of `initial`.
      dtype: dtype of the networks' arithmetic.
      views: settings of the views, before the method adds its own, such as local crops.
      options: all hyperparameters of the method.
      optimiser: optimiser and schedule.
      checkpoint_every, workers, max_broken, on_nonfinite, sharding, accumulate: see `sslshift.training.loop.Training`.
      remat: whether the backward pass computes the encoder's blocks again.
      initial: encoder that training continues from; None: random weights.
      initial_digest: digest of its content as it was read; empty without it.
      frozen: share of the steps in which the encoder of `initial` stays as it is.
    """

    method: str
    encoder: str
    dtype: str
    views: tuple[ViewSettings, ...]
    options: Mapping[str, Any]
    optimiser: Optimiser
    checkpoint_every: int
    workers: int
    max_broken: float
    on_nonfinite: str = STOP
    sharding: str = REPLICATED
    accumulate: int = 1
    remat: bool = False
    initial: PretrainedEncoder | None = None
    initial_digest: str = ""
    frozen: float = 0.0

    @property
    def module(self) -> nn.Module:
        """The architecture of the encoder."""
        return self.initial.module if self.initial else ENCODERS[self.encoder]

    def fitted(self, canvas: Canvas) -> "LearnerSettings":
        """Returns the settings with an initial encoder for images of this shape.

        Raises:
          ValueError: the initial encoder does not take such images.
        """
        if not self.initial:
            return self
        try:
            return dataclasses.replace(self, initial=fitted(self.initial, *canvas))
        except ValueError as error:
            raise ValueError(f"--init: the encoder does not fit the images of the study: {error}") from None

    def build(self) -> Method:
        """Returns the method on its encoder.

        Raises:
          ValueError: the method has no such option, an option is out of range, or the encoder has no blocks for `remat`.
        """
        encoder = self.module
        # This sets only the arithmetic: parameters, statistics and losses stay in float32.
        if self.dtype == "bfloat16":
            encoder = encoder.clone(dtype=jnp.bfloat16)
        if self.remat:
            if not hasattr(encoder, "remat"):
                raise ValueError(f"Expected an encoder with blocks, a ResNet or a ViT, for --remat, got {self.encoder}.")
            encoder = encoder.clone(remat=True)
        method = METHODS[self.method].build(encoder, self.views, **self.options)
        return continued(method, self.initial, self.frozen) if self.initial else method

    def training(self) -> Training:
        """Returns the built method with all other settings of its training; see `build`."""
        fields = ("optimiser", "checkpoint_every", "workers", "max_broken", "on_nonfinite", "sharding", "accumulate", "initial")
        return Training(self.build(), **{name: getattr(self, name) for name in fields})

    def __str__(self) -> str:
        """Returns optimiser and head in one line for users, with the differences from the recipe."""
        recipe = METHODS[self.method]
        default = Optimiser(**recipe.optimiser_for(self.module))
        defaults = recipe.options_for(self.module)
        used = self.optimiser
        parts = [
            _compared("optimiser", used.name, default.name),
            _compared("learning rate", f"{used.learning_rate:g}", f"{default.learning_rate:g}"),
            _compared("weight decay", f"{used.weight_decay:g}", f"{default.weight_decay:g}"),
        ]
        for name, value in self.options.items():
            if name == "projector" or value != defaults[name]:
                parts.append(_compared(name, _text(value), _text(defaults[name])))
        if self.initial:
            layers = f", layer decay {used.layer_decay:g}" if used.layer_decay < 1 else ""
            parts.append(f"encoder's rate {used.encoder_rate:g} of it{layers}, frozen for {self.frozen:.0%} of the steps")
        return ", ".join(parts)


def _compared(name: str, used: str, default: str) -> str:
    return f"{name} {used}" if used == default else f"{name} {used} (recipe: {default})"


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def parse_learners(study: Study) -> tuple[LearnerSettings, ...]:
    """Returns the settings of every method on every encoder that a declaration names, in the order of the declaration.

    Example:
      >>> study = Study(method="simclr,byol", for_method=("byol: learning_rate=2e-3; predictor=512",))
      >>> [(each.method, each.optimiser.learning_rate) for each in parse_learners(study)][1]
      ('byol', 0.002)

    Raises:
      ValueError: a name is unknown or named twice, a setting cannot be read, or settings do not fit each other.
    """
    initial = _initial(study)
    own: dict[str, dict[str, Any]] = {}
    for text in study.for_method:
        method, given = parse_own(text)
        own[method] = own.get(method, {}) | given
    found = []
    for method in _names("method", study.method, METHODS):
        given = own.get(method, {})
        flags = {name: value for name, value in given.items() if name in OWN_FLAGS}
        options = options_given(study) | {name: value for name, value in given.items() if name not in OWN_FLAGS}
        # An encoder in --for_method replaces --encoder: mae needs a ViT while others use a ResNet.
        for encoder in _encoder_names(flags.pop("encoder", study.encoder), study.init, initial):
            # The study with the flags of only this method on this encoder.
            single = dataclasses.replace(study, **flags | {"method": method, "encoder": encoder})
            learner = _settings(single, options, initial)
            # Unknown options and values out of range are reported before anything is opened.
            learner.build()
            found.append(learner)
    return tuple(found)


def _initial(study: Study) -> PretrainedEncoder | None:
    """Returns the encoder of --init; None without it."""
    if not study.init:
        return None
    encoder = open_encoder(study.init)
    if encoder.features != "pooled":
        raise ValueError(
            f"--init={study.init}: features= has no effect on training; --features names the features to evaluate."
        )
    return encoder


def _encoder_names(text: str, init: str, initial: PretrainedEncoder | None) -> list[str]:
    """Returns the names of the encoders of a study, or of one of its methods."""
    if not initial:
        return _names("encoder", text, ENCODERS)
    own = architecture_name(initial.module)
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name != own:
            raise ValueError(
                f"--init={init} is of the architecture {own}, but --encoder names {name}: remove --encoder, or give a file of "
                "that architecture."
            )
    return [own]


def _settings(study: Study, options: Mapping[str, str], initial: PretrainedEncoder | None) -> LearnerSettings:
    """Returns the settings of one method on one encoder.

    Args:
      study: declaration with one method and one encoder.
      options: options of the method, as text.
      initial: encoder that training continues from; None: random weights.
    """
    if study.dtype not in DTYPES:
        raise ValueError(f"Expected one of {', '.join(DTYPES)} for --dtype, got {study.dtype!r}.")
    if study.on_nonfinite not in ON_NONFINITE:
        raise ValueError(f"Expected one of {', '.join(ON_NONFINITE)} for --on_nonfinite, got {study.on_nonfinite!r}.")
    if study.sharding not in SHARDINGS:
        raise ValueError(f"Expected one of {', '.join(SHARDINGS)} for --sharding, got {study.sharding!r}.")
    recipe = METHODS[study.method]
    module = initial.module if initial else ENCODERS[study.encoder]
    return LearnerSettings(
        method=study.method,
        encoder=study.encoder,
        dtype=study.dtype,
        views=tuple(_changed_view(study, view) for view in recipe.views),
        options=_method_options(study, options, recipe.options_for(module)),
        optimiser=_optimiser(study, recipe.optimiser_for(module), module),
        checkpoint_every=study.checkpoint_every,
        workers=study.workers,
        max_broken=study.max_broken,
        on_nonfinite=study.on_nonfinite,
        sharding=study.sharding,
        accumulate=study.accumulate,
        remat=study.remat,
        initial=initial,
        initial_digest=initial.fingerprint if initial else "",
        frozen=study.init_frozen if initial else 0.0,
    )


def _method_options(study: Study, given: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns all hyperparameters of a method: its recipe for the encoder, changed by --head and by `given`."""
    options = dict(defaults)
    if study.head:
        # Checked even for a method without a projector: an invalid width is an error.
        projector = parsed("--head", study.head, (0,))
        options |= {"projector": projector} if "projector" in options else {}
    for name, text in given.items():
        options[name] = parsed(f"--method_options: {name}", text, defaults.get(name, ""))
    return options


def options_given(study: Study) -> dict[str, str]:
    """Returns the settings in --method_options, as text by name."""
    return settings(study.method_options, flag="--method_options")


def _changed_view(study: Study, view: ViewSettings) -> ViewSettings:
    given = {"min_crop_scale": study.min_crop_scale, "flip_probability": study.flip}
    # A recipe without jitter is one for reconstruction, whose colours must not change.
    if view.jitter_probability:
        given |= dict.fromkeys(("brightness", "contrast", "saturation"), study.jitter) | {"blur_probability": study.blur}
        given |= {"hue": study.jitter / 4 if study.jitter != -1 else -1}
    return dataclasses.replace(view, **{name: value for name, value in given.items() if value != -1})


def _optimiser(study: Study, recipe: Mapping[str, Any], module: nn.Module) -> Optimiser:
    if study.optimiser not in ("", recipe["name"]) and study.learning_rate == -1:
        # Learning rates do not carry over between optimisers: with adamw's 1e-3, lars would hardly train.
        raise ValueError(
            f"The recipe of {study.method} on {study.encoder} has a learning rate for {recipe['name']}, not for "
            f"{study.optimiser}: give --learning_rate too."
        )
    chosen = dict(recipe) if study.optimiser in ("", recipe["name"]) else {"name": study.optimiser}
    given = {name: getattr(study, name) for name in ("learning_rate", "weight_decay", "warmup", "layer_decay")}
    continued = {"encoder_rate": study.init_rate} | ({"layer_decay": _VIT_DECAY} if isinstance(module, ViT) else {})
    own = (continued if study.init else {}) | {name: value for name, value in given.items() if value != -1}
    return Optimiser(**chosen | own)


def _names(flag: str, text: str, known: Collection[str]) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"Expected one of {', '.join(known)} for --{flag}, got {name!r}.")
    if len(set(names)) < len(names):
        raise ValueError(f"--{flag}={text} names one of them twice.")
    return names


@dataclasses.dataclass(frozen=True, eq=False)
class Learner:
    """A method on an encoder, built for the images and the budget of a study.

    Attributes:
      settings: settings of method and encoder.
      training: built method with its optimiser.
      budget: C in whole batches.
      batch_size: number of images in a step.
      canvas: shape of every image.
    """

    settings: LearnerSettings
    training: Training
    budget: Budget
    batch_size: int
    canvas: Canvas

    @property
    def key(self) -> tuple[str, str]:
        """The names of method and encoder."""
        return self.settings.method, self.settings.encoder

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """All settings that the training of its runs shares; evaluations are recorded with their scores."""
        optimiser = dataclasses.asdict(self.training.optimiser)
        return {
            "batch_size": self.batch_size,
            "method": self.settings.method,
            "encoder": self.settings.encoder,
            "dtype": self.settings.dtype,
            "budget": self.budget.samples,
            "canvas": self.canvas,
            "method_options": dict(self.settings.options),
            "optimiser": {name: value for name, value in optimiser.items() if (name, value) != ("encoder_rate", 1.0)},
            "views": [dataclasses.asdict(view) for view in self.training.method.views],
            # The content and not the path, so that a file may be moved.
            **({"init": self.settings.initial_digest, "init_frozen": self.settings.frozen} if self.settings.initial else {}),
        } | ({"on_nonfinite": self.settings.on_nonfinite} if self.training.skips else {})

    @property
    def steps(self) -> int:
        """Training steps of every run."""
        return self.budget.steps(self.batch_size)

    @functools.cached_property
    def flops(self) -> float:
        """FLOPs of one training step, without blocks that are computed again; the step is traced but not computed."""
        training = dataclasses.replace(self.settings, remat=False).training() if self.settings.remat else self.training
        return step_flops(training, self.canvas, self.batch_size)

    @functools.cached_property
    def step_at_peak(self) -> float:
        """Seconds of a training step at the peak of all devices; 0 if their peak is unknown."""
        peak = peak_flops(jax.devices()[0].device_kind, self.settings.dtype)
        # Counting FLOPs takes seconds, and is done only where the result is used.
        return self.flops / (peak * jax.device_count()) if peak else 0.0

    @functools.cached_property
    def _state(self) -> TrainState:
        """Shapes of the training state; a training step is traced but not computed."""
        return traced_step(self.training, self.canvas, self.batch_size)

    @property
    def parameters(self) -> int:
        """Number of the encoder's parameters."""
        return count_parameters(self._state.params["encoder"])

    @property
    def state_bytes(self) -> int:
        """Bytes of the training state on each device between two steps."""
        return bytes_per_device(self._state, make_mesh(), self.settings.sharding)

    def counted(self, clock: Clock, on_step: OnStep) -> OnStep:
        """Returns the callback of a training step, which also counts the samples of the step."""
        at_peak = self.step_at_peak

        def on_counted_step(step: int, scalars: dict[str, float]) -> None:
            clock.samples += self.batch_size
            clock.at_peak += at_peak
            on_step(step, scalars)

        return on_counted_step

    def __str__(self) -> str:
        return f"{self.settings.method} on {self.settings.encoder}"


def open_learners(several: Sequence[LearnerSettings], budget: Budget, batch_size: int, canvas: Canvas) -> tuple[Learner, ...]:
    """Returns built learners; tracing them reports settings that do not fit each other or the images.

    Args:
      several: settings of the learners.
      budget: C in whole batches.
      batch_size: number of images in a step.
      canvas: shape of every image.

    Raises:
      ValueError: an encoder does not accept images of this shape, or a loss does not accept the batch.
    """
    ready = [each.fitted(canvas) for each in several]
    learners = tuple(Learner(each, each.training(), budget, batch_size, canvas) for each in ready)
    for learner in learners:
        # Counting FLOPs traces a step: an encoder or loss that does not accept its input raises an error now.
        _ = learner.parameters
    return learners
