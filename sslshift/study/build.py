"""From a declaration to what is trained: encoder, method, optimiser."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from sslshift.command import parsed
from sslshift.data.views import ViewSettings
from sslshift.methods import METHODS
from sslshift.models import ENCODERS
from sslshift.study.declare import Study
from sslshift.training.loop import Training
from sslshift.training.optimiser import Optimiser


def build_training(study: Study, convolution: Callable | None = None) -> Training:
    """Method and optimiser: the method's recipe, and what the study says otherwise.

    Args:
      study: of one method on one encoder.
      convolution: of encoders that have any, in place of their own.

    Raises:
      ValueError: a name is unknown, or a value is out of its range.
    """
    choices = {"method": METHODS, "encoder": ENCODERS, "dtype": ("float32", "bfloat16")}
    for name, known in choices.items():
        if getattr(study, name) not in known:
            raise ValueError(f"--{name}={getattr(study, name)} is unknown; there is {', '.join(known)}.")
    recipe = METHODS[study.method]
    encoder = ENCODERS[study.encoder]
    if study.dtype == "bfloat16":
        encoder = encoder.clone(dtype=jnp.bfloat16)
    if convolution and hasattr(encoder, "convolution"):
        encoder = encoder.clone(convolution=convolution)
    # What a method makes of its views itself, such as local crops, comes after the flags.
    views = tuple(_changed_view(study, view) for view in recipe.views)
    method = recipe.build(encoder, views, **method_options(study))
    optimiser = _optimiser(study, recipe.optimiser_for(encoder))
    return Training(method, optimiser, study.checkpoint_every, study.workers, study.max_broken)


def method_options(study: Study) -> dict[str, Any]:
    """All hyperparameters of the study's method: its recipe's for the encoder, and what the flags say otherwise."""
    options = METHODS[study.method].options_for(ENCODERS[study.encoder])
    defaults = dict(options)
    if study.head:
        # An unreadable width is an error also where it would not be used.
        projector = parsed("--head", study.head, (0,))
        options |= {"projector": projector} if "projector" in options else {}
    for name, text in options_given(study).items():
        options[name] = parsed(f"--method_options: {name}", text, defaults.get(name, ""))
    return options


def options_given(study: Study) -> dict[str, str]:
    """What `--method_options` says, as text by name."""
    given = {}
    for part in filter(None, (part.strip() for part in study.method_options.split(";"))):
        name, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"--method_options are written name=value and separated by ';', not {part!r}.")
        given[name] = text
    return given


def _changed_view(study: Study, view: ViewSettings) -> ViewSettings:
    given = {"min_crop_scale": study.min_crop_scale, "flip_probability": study.flip}
    # A view without jitter is one to be reconstructed: its colours are left alone.
    if view.jitter_probability:
        given |= dict.fromkeys(("brightness", "contrast", "saturation"), study.jitter) | {"blur_probability": study.blur}
        given |= {"hue": study.jitter / 4 if study.jitter != -1 else -1}
    return dataclasses.replace(view, **{name: value for name, value in given.items() if value != -1})


def _optimiser(study: Study, recipe: Mapping[str, Any]) -> Optimiser:
    if study.optimiser not in ("", recipe["name"]) and study.learning_rate == -1:
        raise ValueError(
            f"The recipe of {study.method} on {study.encoder} has a learning rate for {recipe['name']}, not for "
            f"{study.optimiser}: give --learning_rate too."
        )
    settings = dict(recipe) if study.optimiser in ("", recipe["name"]) else {"name": study.optimiser}
    given = {name: getattr(study, name) for name in ("learning_rate", "weight_decay", "warmup")}
    return Optimiser(**settings | {name: value for name, value in given.items() if value != -1})


def describe_training(study: Study) -> str:
    """Optimiser and head as they will be used, and what the recipe says otherwise, in one line for people."""
    recipe = METHODS[study.method]
    encoder = ENCODERS[study.encoder]
    used = build_training(study).optimiser
    meant = Optimiser(**recipe.optimiser_for(encoder))
    options = method_options(study)
    defaults = recipe.options_for(encoder)
    parts = [
        _compared("optimiser", used.name, meant.name),
        _compared("learning rate", f"{used.learning_rate:g}", f"{meant.learning_rate:g}"),
        _compared("weight decay", f"{used.weight_decay:g}", f"{meant.weight_decay:g}"),
    ]
    for name in options:
        if name == "projector" or options[name] != defaults[name]:
            parts.append(_compared(name, _text(options[name]), _text(defaults[name])))
    return ", ".join(parts)


def _compared(name: str, used: str, meant: str) -> str:
    return f"{name} {used}" if used == meant else f"{name} {used} (recipe: {meant})"


def _text(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
