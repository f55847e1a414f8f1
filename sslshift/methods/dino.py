"""DINO: a student's distribution over prototypes follows that of a teacher which sees other, larger crops.

References:
  Caron et al., `Emerging Properties in Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from sslshift import losses
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output
from sslshift.methods.siamese import (
    Siamese,
    copy_networks,
    follow,
    forward,
    hold_prototypes,
    settings_of,
    with_local_views,
)
from sslshift.models import PrototypeHead


def dino(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    prototypes: int,
    student_temperature: float,
    teacher_temperature: float,
    first_teacher_temperature: float,
    temperature_warmup: float,
    center_momentum: float,
    momentum: float,
    frozen: float,
    local_views: int,
    local_size: int,
    local_crop_scale: float,
) -> Method:
    """Returns DINO on an encoder.

    Args:
      encoder: any encoder; with a `local_size` it must also take images of that size.
      views: settings of the global views of an image, which the teacher sees.
      projector: widths of the head; the last one is the bottleneck.
      prototypes: number of outputs of the head.
      student_temperature: temperature of the student's softmax.
      teacher_temperature: temperature of the teacher's softmax, reached linearly from `first_teacher_temperature` over the
        share `temperature_warmup` of the run.
      center_momentum: momentum of the centre that is subtracted from the teacher's outputs.
      momentum: momentum of the teacher, rising to 1 over the run.
      frozen: share of the run during which the prototypes do not change.
      local_views, local_size, local_crop_scale: settings of further views for the student only, see `with_local_views`.

    Raises:
      ValueError: a hyperparameter is out of its range, or the encoder does not take local views of this size.
    """
    for name, value in {"temperature_warmup": temperature_warmup, "center_momentum": center_momentum}.items():
        if not 0 <= value <= 1:
            raise ValueError(f"Expected {name} in [0, 1], got {value}.")
    temperatures = _Temperatures(student_temperature, first_teacher_temperature, teacher_temperature, temperature_warmup)
    if min(temperatures[:3]) <= 0:
        raise ValueError(f"Expected temperatures above 0 for DINO, got {', '.join(map(str, temperatures[:3]))}.")
    settings = settings_of(encoder)
    # DINO's head has no batch norm and therefore needs no `axis_name`.
    networks = Siamese(encoder, PrototypeHead(projector, prototypes, settings["dtype"]))
    loss = functools.partial(_loss, networks, len(views), temperatures, center_momentum, settings["axis_name"])

    def init_target(variables):
        return copy_networks(variables) | {"center": jnp.zeros(prototypes)}

    # Local views are added after `_loss` was given the number of views, since the teacher sees only the global ones.
    views = with_local_views(encoder, views, local_views, size=local_size, crop_scale=local_crop_scale)
    # The loss uses the centre of the steps before, and the new one is linear in the images' logits.
    return Method(views, networks, loss, init_target, follow(momentum), hold_prototypes(frozen), coupled="")


class _Temperatures(NamedTuple):
    """Temperatures of the two softmaxes; the teacher's moves from `first_teacher` to `teacher` over the share `warmup`."""

    student: float
    first_teacher: float
    teacher: float
    warmup: float

    def of_teacher(self, progress: jax.Array) -> jax.Array | float:
        # Without a warm-up the first step would divide 0 by 0.
        warm = jnp.clip(progress / self.warmup, 0, 1) if self.warmup else 1.0
        return self.first_teacher + (self.teacher - self.first_teacher) * warm


def _loss(networks, teacher_views, temperatures, center_momentum, axis_name, variables, target, views, context):
    student, batch_stats = forward(networks, variables, views)
    # The target also holds the centre, which is not a variable of the networks.
    networks_target = {name: target[name] for name in ("params", "batch_stats")}
    # The teacher sees only the global views, which come first.
    teacher, target_stats = forward(networks, networks_target, views[:teacher_views], "project")
    teacher = jnp.stack(teacher)
    teacher_temperature = temperatures.of_teacher(context.progress)
    value = losses.dino(
        jnp.stack(student),
        teacher,
        center=target["center"],
        student_temperature=temperatures.student,
        teacher_temperature=teacher_temperature,
    )
    # The centre moves after the loss has used it, as in the authors' code.
    center = losses.dino_center(target["center"], teacher, momentum=center_momentum, axis_name=axis_name)
    metrics = {"teacher_temperature": jnp.float32(teacher_temperature)}
    return value, Output(batch_stats, target | {"batch_stats": target_stats, "center": center}, metrics)
