"""SwAV: each view of an image predicts the prototypes that another view of it is assigned to.

Its metrics show a collapse. `assignment_entropy` is the mean entropy of an image's assignment as a share of the largest
possible (1: the images are assigned to all prototypes equally). `prototype_perplexity` is the exponential of the entropy of the
batch's mean prediction, the number of prototypes that are predicted (1: the same prototype for every image). With a queue,
`queue_used` is 1 in the steps whose assignments include it.

References:
  Caron et al., `Unsupervised Learning of Visual Features by Contrasting Cluster Assignments
  <https://arxiv.org/abs/2006.09882>`_, 2020
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sslshift import losses
from sslshift.arrays import on_any_mesh, unit
from sslshift.data.views import ViewSettings
from sslshift.methods.base import Method, Output, no_target
from sslshift.methods.siamese import (
    Siamese,
    batch_size,
    enqueued,
    forward,
    hold_prototypes,
    settings_of,
    with_local_views,
)
from sslshift.models import MLPHead, Prototypes


def swav(
    encoder: nn.Module,
    views: tuple[ViewSettings, ViewSettings],
    *,
    projector: Sequence[int],
    prototypes: int,
    temperature: float,
    epsilon: float,
    iterations: int,
    frozen: float,
    queue: int,
    queue_start: float,
    local_views: int,
    local_size: int,
    local_crop_scale: float,
) -> Method:
    """Returns SwAV on an encoder.

    Args:
      encoder: any encoder; with a `local_size` it must also take images of that size.
      views: settings of the global views of an image, which are assigned to prototypes.
      projector: widths of the projector.
      prototypes: number of prototypes. Their vectors have length 1 before every step.
      temperature: temperature of the predictions.
      epsilon, iterations: settings of the assignments, see `sslshift.losses.swav`.
      frozen: share of the run during which the prototypes do not change.
      queue: number of past embeddings of each global view that are assigned together with the batch; 0: none. The queue fills
        from the first step on and is used once it is full and `queue_start` is over. Every device holds the whole queue.
      queue_start: share of the run without the queue.
      local_views, local_size, local_crop_scale: settings of further views that predict but are not assigned, see
        `with_local_views`.

    Raises:
      ValueError: a hyperparameter is out of its range, or the encoder does not take local views of this size.
    """
    _require_ranges(prototypes, temperature, epsilon, iterations, queue, queue_start)
    settings = settings_of(encoder)
    # The prototypes are passed as the predictor, so one pass returns both embeddings and logits.
    networks = Siamese(
        encoder, MLPHead(projector, batch_norm=True, **settings), Prototypes(prototypes, dtype=settings["dtype"])
    )
    assignment = _Assignment(len(views), epsilon, iterations, queue, queue_start, settings["axis_name"])

    def init_target(variables):
        del variables
        # Explicit dtypes keep the state in float32 where JAX's default is float64.
        return {"queue": jnp.zeros((len(views), queue, projector[-1]), jnp.float32), "filled": jnp.zeros((), jnp.int32)}

    return Method(
        with_local_views(encoder, views, local_views, size=local_size, crop_scale=local_crop_scale),
        networks,
        functools.partial(_loss, networks, assignment, temperature),
        init_target if queue else no_target,
        freeze=hold_prototypes(frozen),
        constrain=_unit_prototypes,
        coupled="SwAV assigns the images of a batch together",
    )


def _require_ranges(prototypes, temperature, epsilon, iterations, queue, queue_start) -> None:
    if not (temperature > 0 and epsilon > 0):
        raise ValueError(f"Expected a temperature and an epsilon above 0 for SwAV, got {temperature} and {epsilon}.")
    # With one prototype the metric `assignment_entropy` would divide by log(1) = 0.
    if iterations < 1 or prototypes < 2 or queue < 0:
        raise ValueError(
            "Expected at least 1 iteration, 2 prototypes and a queue of at least 0 for SwAV, got "
            f"{iterations}, {prototypes} and {queue}."
        )
    if not 0 <= queue_start <= 1:
        raise ValueError(f"Expected queue_start in [0, 1], got {queue_start}.")


class _Assignment(NamedTuple):
    """Settings of the assignments to prototypes, see `swav`; `views` is the number of views that are assigned."""

    views: int
    epsilon: float
    iterations: int
    queue: int
    queue_start: float
    axis_name: str | None


def _loss(networks, assignment, temperature, variables, target, views, context):
    axis_name = assignment.axis_name
    (z, logits), batch_stats = forward(networks, variables, views)
    logits = jnp.stack(logits)
    assignments, metrics = _assigned(networks, assignment, logits, variables, target, context.progress)
    value = losses.swapped_prediction(logits, assignments, temperature=temperature, axis_name=axis_name)
    metrics |= _collapse_signals(lax.stop_gradient(logits) / temperature, assignments, axis_name)
    if assignment.queue:
        newest = unit(jnp.stack(z[: assignment.views]).astype(jnp.float32))
        filled = jnp.minimum(target["filled"] + batch_size(newest, axis_name), assignment.queue)
        target = {"queue": enqueued(target["queue"], newest, axis_name), "filled": filled}
    return value, Output(batch_stats, target, metrics)


def _assigned(networks, assignment, logits, variables, target, progress):
    """Returns the assignments of the first views, and a metric that shows whether the queue was used."""
    views, epsilon, iterations, queue, queue_start, axis_name = assignment
    given = {"epsilon": epsilon, "iterations": iterations, "axis_name": axis_name}
    if not queue:
        return losses.sinkhorn(logits[:views], **given), {}
    # The queue holds embeddings and not logits, since the prototypes change after an embedding entered the queue.
    past = networks.predictor.apply({"params": variables["params"]["predictor"]}, target["queue"], train=True)
    used = jnp.logical_and(target["filled"] == queue, progress >= queue_start)
    # The queue is masked and not omitted, since only a running step knows whether it is used.
    mask = jnp.broadcast_to(used, (queue,))
    # Every device holds the whole queue, which its type does not always show.
    assignments = losses.sinkhorn(logits[:views], queue_logits=past, queue_mask=mask, queue_split=False, **given)
    return assignments, {"queue_used": used.astype(jnp.float32)}


def _unit_prototypes(params):
    predictor = params["predictor"]
    return params | {"predictor": predictor | {"prototypes": unit(predictor["prototypes"], axis=0)}}


@on_any_mesh
def _collapse_signals(scores, assignments, axis_name):
    """Returns metrics of the global batch from the assignments and the logits divided by the temperature."""
    entropy = jax.scipy.special.entr(assignments).sum(axis=-1).mean()
    prediction = jax.nn.softmax(scores).mean(axis=(0, 1))
    if axis_name is not None:
        entropy, prediction = lax.pmean((entropy, prediction), axis_name)
    return {
        "assignment_entropy": entropy / jnp.log(assignments.shape[-1]),
        "prototype_perplexity": jnp.exp(jax.scipy.special.entr(prediction).sum()),
    }
