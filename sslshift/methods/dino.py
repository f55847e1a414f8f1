"""DINO: a student's distribution over prototypes follows that of a teacher which sees other, larger crops.

References:
  Caron et al., `Emerging Properties in Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021
"""

from collections.abc import Sequence

import flax.linen as nn
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
    """DINO on an encoder.

    Args:
      encoder: any encoder; with a `local_size`, one that takes images of that size too.
      views: of an image; the teacher sees these.
      projector: widths of the head, its bottleneck last.
      prototypes: outputs of the head.
      student_temperature: of the student's softmax.
      teacher_temperature: of the teacher's, reached linearly from `first_teacher_temperature` over the share
        `temperature_warmup` of the run.
      first_teacher_temperature: at the start.
      temperature_warmup: in [0, 1].
      center_momentum: of the centre that is taken off the teacher's outputs.
      momentum: of the teacher, rising to 1 over the run.
      frozen: share of the run during which the prototypes stay as they are.
      local_views: further views for the student alone (multi-crop).
      local_size: their side in pixels; 0: that of the images.
      local_crop_scale: the largest share of an image's area in a local view, and then the smallest in the others.

    Raises:
      ValueError: a share is outside [0, 1], a temperature not above 0, a number negative, or local views are of a size that the
        encoder does not take.
    """
    shares = {"temperature_warmup": temperature_warmup, "center_momentum": center_momentum}
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], not {value}.")
    if min(student_temperature, teacher_temperature, first_teacher_temperature) <= 0:
        raise ValueError("DINO's temperatures must be above 0.")
    settings = settings_of(encoder)
    networks = Siamese(encoder, PrototypeHead(projector, prototypes, settings["dtype"]))
    teacher_views = len(views)
    views = with_local_views(encoder, views, local_views, size=local_size, crop_scale=local_crop_scale)

    def temperature(progress):
        warm = jnp.clip(progress / temperature_warmup, 0, 1) if temperature_warmup else 1.0
        return first_teacher_temperature + (teacher_temperature - first_teacher_temperature) * warm

    def loss(variables, target, views, context):
        student, batch_stats = forward(networks, variables, views)
        networks_target = {name: target[name] for name in ("params", "batch_stats")}
        teacher, target_stats = forward(networks, networks_target, views[:teacher_views], "project")
        student = jnp.stack(student)
        teacher = jnp.stack(teacher)
        value = losses.dino(
            student,
            teacher,
            center=target["center"],
            student_temperature=student_temperature,
            teacher_temperature=temperature(context.progress),
        )
        center = losses.dino_center(target["center"], teacher, momentum=center_momentum, axis_name=settings["axis_name"])
        metrics = {"teacher_temperature": jnp.float32(temperature(context.progress))}
        return value, Output(batch_stats, target | {"batch_stats": target_stats, "center": center}, metrics)

    def init_target(variables):
        return copy_networks(variables) | {"center": jnp.zeros(prototypes)}

    return Method(views, networks, loss, init_target, follow(momentum), hold_prototypes(frozen))
