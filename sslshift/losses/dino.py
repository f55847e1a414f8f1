"""The loss of DINO and its centre."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslshift.arrays import on_any_mesh, widened
from sslshift.losses import _batch


@on_any_mesh
def dino(
    student_logits: jax.Array,
    teacher_logits: jax.Array,
    *,
    center: jax.Array,
    student_temperature: float,
    teacher_temperature: float,
) -> jax.Array:
    """Returns the self-distillation loss: the student's prototypes follow the teacher's for other views of the image.

    Mean cross-entropy over all pairs of a teacher view and a different student view. The first teacher views are the first
    student views (the global crops); pairs of one view are skipped. No gradient reaches the teacher or the centre.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.zeros((2, 4, 8))
      >>> center = jnp.zeros(8)
      >>> loss = dino(logits, logits, center=center, student_temperature=0.1, teacher_temperature=0.04)
      >>> round(float(loss), 4)  # log(prototypes): nothing is preferred
      2.0794

    Args:
      student_logits: `[student views, batch, prototypes]`, any floating dtype; at least two views.
      teacher_logits: `[teacher views, batch, prototypes]`, with at most the number of student views.
      center: subtracted from the teacher's logits, `[prototypes]`; see `dino_center`.
      student_temperature: above 0 (0.1 in the paper).
      teacher_temperature: above 0 (0.04 to 0.07 in the paper).

    Returns:
      Scalar, in float32 or better. It is a mean over images: inside `shard_map` take `lax.pmean` of it.

    Raises:
      ValueError: shapes do not fit, there is no pair of different views, or a temperature is not above 0.

    References:
      Caron et al., `Emerging Properties in Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021
    """
    with _batch.refused(
        "Expected logits [views, batch, prototypes] of one batch and one number of prototypes, got "
        f"{student_logits.shape} and {teacher_logits.shape}."
    ):
        chex.assert_rank([student_logits, teacher_logits], 3)
        chex.assert_equal_shape_suffix([student_logits, teacher_logits], 2)
    if not 1 <= len(teacher_logits) <= len(student_logits) or len(student_logits) < 2:
        views = f"{len(student_logits)} and {len(teacher_logits)}"
        raise ValueError(f"Expected at least two student views, and teacher views from 1 to that number, got {views}.")
    with _batch.refused(f"Expected a centre with one entry per prototype, [{student_logits.shape[-1]}], got {center.shape}."):
        chex.assert_shape(center, student_logits.shape[-1:])
    student, teacher, center = widened(student_logits, *lax.stop_gradient((teacher_logits, center)))
    student_temperature, teacher_temperature = _batch.positive_scalars(
        student, student_temperature=student_temperature, teacher_temperature=teacher_temperature
    )
    # A logit of -inf excludes a prototype for teacher and student alike; 0 times the logarithm of 0 counts as 0.
    log_student = jnp.maximum(jax.nn.log_softmax(student / student_temperature), jnp.finfo(student.dtype).min)
    # The centre's axes are added explicitly, since strict rank promotion refuses to add them.
    teacher = jax.nn.softmax((teacher - center[None, None]) / teacher_temperature)
    # [teacher views, student views]: mean over the batch of each pair's cross-entropy.
    pairs = -jnp.einsum("tbk,sbk->ts", teacher, log_student, precision=lax.Precision.HIGHEST) / student.shape[1]
    different = 1 - jnp.eye(*pairs.shape, dtype=pairs.dtype)
    return jnp.sum(pairs * different) / (pairs.size - len(teacher))


@on_any_mesh
def dino_center(center: jax.Array, teacher_logits: jax.Array, *, momentum: float, axis_name: str | None = None) -> jax.Array:
    """Returns the centre after a step, an exponential moving average of the teacher's mean logits.

    Example:
      >>> import jax.numpy as jnp
      >>> dino_center(jnp.zeros(2), jnp.full((2, 4, 2), 10.0), momentum=0.9).round(3).tolist()
      [1.0, 1.0]

    Args:
      center: centre before the step, `[prototypes]`.
      teacher_logits: `[views, batch, prototypes]`.
      momentum: share of the old centre in the new one, in [0, 1].
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.

    Returns:
      `[prototypes]`, in float32 or better, without gradient.

    Raises:
      ValueError: shapes do not fit, or the momentum is outside [0, 1].

    References:
      Caron et al., `Emerging Properties in Self-Supervised Vision Transformers <https://arxiv.org/abs/2104.14294>`_, 2021
    """
    with _batch.refused(
        f"Expected a centre [prototypes] and logits [views, batch, prototypes], got {center.shape} and {teacher_logits.shape}."
    ):
        chex.assert_rank(teacher_logits, 3)
        chex.assert_shape(center, teacher_logits.shape[-1:])
    # A traced momentum has no value to compare.
    if isinstance(momentum, int | float | np.number) and not 0 <= momentum <= 1:
        raise ValueError(f"Expected momentum in [0, 1], got {momentum}.")
    center, logits = widened(*lax.stop_gradient((center, teacher_logits)))
    (momentum,) = _batch.scalars(center, momentum=momentum)
    mean = _batch.batch_mean(logits.mean(axis=0), axis_name)
    return momentum * center + (1 - momentum) * mean
