"""The loss of SwAV, and the Sinkhorn-Knopp assignments that the views predict."""

import numbers

import chex
import jax
import jax.numpy as jnp
from jax import lax

from sslshift.arrays import on_any_mesh, widened
from sslshift.losses import _batch


@on_any_mesh
def swav(
    logits: jax.Array,
    *,
    temperature: float,
    epsilon: float,
    iterations: int,
    queue_logits: jax.Array | None = None,
    axis_name: str | None = None,
    queue_mask: jax.Array | None = None,
    queue_split: bool | None = None,
    assigned_views: int = 2,
) -> jax.Array:
    """Returns the swapped prediction loss: a view predicts the prototypes that another view of its image is assigned to.

    The first `assigned_views` views (the global crops) are assigned to prototypes, each view separately, see `sinkhorn`. Every
    view predicts the assignments of the other views by its softmax. The loss is the mean cross-entropy over all
    pairs of an assigned view and a different view, which is the authors' loss: with multi-crop the local views predict
    but are not assigned. No gradient reaches the assignments.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.zeros((2, 4, 8))
      >>> loss = swav(logits, temperature=0.1, epsilon=0.05, iterations=3)
      >>> round(float(loss), 4)  # log(prototypes): nothing is preferred
      2.0794

    Args:
      logits: `[views, batch, prototypes]`, any floating dtype, at least two views, the assigned ones first. In the paper they
        are the cosines of embeddings and prototypes; nothing is normalised here.
      temperature: divides the logits of the predictions, above 0 (0.1 in the paper).
      epsilon, iterations: settings of the assignments, see `sinkhorn` (0.05 and 3 in the paper).
      queue_logits: logits of past embeddings, `[assigned_views, queue, prototypes]`, which are used in the assignment only.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; assignments are then global.
      queue_mask, queue_split: see `sinkhorn`.
      assigned_views: number of views that are assigned, from 1 to the number of views.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes do not fit, there is a single view, or a hyperparameter is out of its range.

    References:
      Caron et al., `Unsupervised Learning of Visual Features by Contrasting Cluster Assignments
      <https://arxiv.org/abs/2006.09882>`_, 2020
    """
    logits = _require_logits("logits", logits)
    # NumPy's whole numbers are not instances of `int`.
    if not isinstance(assigned_views, numbers.Integral) or not 1 <= assigned_views <= len(logits):
        raise ValueError(f"Expected assigned_views from 1 to the {len(logits)} views of the logits, got {assigned_views}.")
    assignments = sinkhorn(
        logits[:assigned_views],
        epsilon=epsilon,
        iterations=iterations,
        queue_logits=queue_logits,
        axis_name=axis_name,
        queue_mask=queue_mask,
        queue_split=queue_split,
    )
    return swapped_prediction(logits, assignments, temperature=temperature, axis_name=axis_name)


@on_any_mesh
def swapped_prediction(
    logits: jax.Array, assignments: jax.Array, *, temperature: float, axis_name: str | None = None
) -> jax.Array:
    """Returns the mean cross-entropy of assignments to prototypes and the predictions of other views.

    The assigned views are the first of the views, and no view predicts its own assignment. No gradient reaches the assignments.

    Example:
      >>> import jax.numpy as jnp
      >>> assignments = jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]])
      >>> round(float(swapped_prediction(jnp.zeros((2, 1, 2)), assignments, temperature=0.1)), 4)  # log(prototypes)
      0.6931

    Args:
      logits: `[views, batch, prototypes]`, any floating dtype, at least two views.
      assignments: assignments of the first views, `[assigned views, batch, prototypes]`; those of an image sum to 1.
      temperature: divides the logits, above 0.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`.

    Returns:
      Scalar loss of the global batch, in float32 or better.

    Raises:
      ValueError: shapes do not fit, there is a single view, or the temperature is not above 0.
    """
    logits = _require_logits("logits", logits)
    assignments = _require_logits("assignments", assignments)
    if len(logits) < 2:
        raise ValueError(f"Expected at least two views, since a view predicts another's assignment, got {len(logits)}.")
    with _batch.refused(
        f"Expected assignments of the first views of the logits {logits.shape}, [assigned views, batch, prototypes], got "
        f"{assignments.shape}."
    ):
        chex.assert_axis_dimension_lteq(assignments, 0, len(logits))
        chex.assert_equal_shape_suffix([assignments, logits], 2)
    logits, assignments = widened(logits, lax.stop_gradient(assignments))
    (temperature,) = _batch.positive_scalars(logits, temperature=temperature)
    predictions = jax.nn.log_softmax(logits / temperature)
    # Each view predicts the sum of the other views' assignments, [views, batch, prototypes].
    different = 1 - jnp.eye(len(logits), len(assignments), dtype=logits.dtype)
    targets = jnp.einsum("va,abk->vbk", different, assignments, precision=lax.Precision.HIGHEST)
    pairs = len(assignments) * (len(logits) - 1)
    return _batch.batch_mean(-jnp.sum(targets * predictions, axis=(0, 2)) / pairs, axis_name)


# Assignments are split over the devices as the logits are.
@on_any_mesh(batch_axis=1)
def sinkhorn(
    logits: jax.Array,
    *,
    epsilon: float,
    iterations: int,
    queue_logits: jax.Array | None = None,
    axis_name: str | None = None,
    queue_mask: jax.Array | None = None,
    queue_split: bool | None = None,
) -> jax.Array:
    """Returns soft assignments of images to prototypes that give every prototype about the same share of the images.

    In each view exp(logits / epsilon) is scaled, `iterations` times, so that first the prototypes and then the images have
    equal sums (Sinkhorn and Knopp). Computing with logarithms prevents overflow and underflow. A single image without a queue
    is assigned equally to all prototypes. No gradient passes.

    Example:
      >>> import jax.numpy as jnp
      >>> logits = jnp.array([[[1.0, 0.9], [1.0, 0.1]]])  # both images are nearest to the first prototype
      >>> sinkhorn(logits, epsilon=0.05, iterations=3).argmax(axis=2).tolist()  # but it cannot have both
      [[1, 0]]

    Args:
      logits: `[views, batch, prototypes]`, any floating dtype.
      epsilon: temperature of the assignments, above 0; a smaller epsilon gives harder assignments.
      iterations: number of iterations, at least 1.
      queue_logits: `[views, queue, prototypes]`, logits of images that are assigned together with the batch and then dropped.
      axis_name: the mapped axis over which the batch is split, inside `shard_map`; sums are then those of the global batch.
      queue_mask: bool `[queue]`, False for entries of the queue to ignore, such as entries that are not filled yet; their
        logits may have any value. None: all entries are used.
      queue_split: whether, inside `shard_map`, `queue_logits` are the device's own part of the queue (as in the authors'
        code) or the whole queue, the same on every device. With None the type of the logits decides: they are a part if they
        vary over `axis_name`. The type of a whole queue from `lax.all_gather` also varies: pass False for it. An argument is
        required if types do not show what varies (`check_vma=False`, or the axis of a `vmap`).

    Returns:
      `[views, batch, prototypes]`, in float32 or better; the assignments of an image sum to 1.

    Raises:
      ValueError: shapes do not fit, a hyperparameter is out of its range, or it is not known whether the queue is split.

    References:
      Cuturi, `Sinkhorn Distances: Lightspeed Computation of Optimal Transport <https://arxiv.org/abs/1306.0895>`_, 2013
    """
    logits = _require_logits("logits", logits)
    (epsilon,) = _batch.positive_scalars(widened(logits)[0], epsilon=epsilon)
    if not isinstance(iterations, numbers.Integral) or iterations < 1:
        raise ValueError(f"Expected a whole number of at least 1 for iterations, got {iterations}.")
    parts, masks, axes = _parts(logits, queue_logits, queue_mask, queue_split, axis_name)
    # A queue in float64 widens the logits after epsilon took their dtype.
    parts = [part / epsilon.astype(part.dtype) for part in widened(*lax.stop_gradient(parts))]
    for _ in range(iterations):
        mass = _log_mass(parts, masks, axes)
        # Images are scaled last, so that the assignments of each sum to 1 after any number of iterations.
        parts = [jax.nn.log_softmax(part - mass) for part in parts]
    return jnp.exp(parts[0])


def _parts(logits, queue_logits, queue_mask, queue_split, axis_name):
    """Returns logits, masks and mapped axes of the parts that are assigned together: the batch, and the queue if given."""
    if queue_logits is None:
        if queue_mask is not None or queue_split is not None:
            raise ValueError("Expected queue_logits, since queue_mask or queue_split is given; got None.")
        return (logits,), (None,), (axis_name,)
    queue_logits = _require_queue(queue_logits, queue_mask, logits)
    mask = None if queue_mask is None else jnp.asarray(queue_mask)
    split = axis_name is not None and _is_split(queue_split, queue_logits, logits, axis_name)
    return (logits, queue_logits), (None, mask), (axis_name, axis_name if split else None)


def _log_mass(parts, masks, axes):
    """Returns the log of each prototype's sum over the images of all parts and devices, `[views, 1, prototypes]`."""
    parts = [
        # The logits of a masked entry may be NaN, which a product with 0 would keep.
        part if mask is None else jnp.where(mask[None, :, None], part, -jnp.inf)
        for part, mask in zip(parts, masks, strict=True)
    ]
    # The exponentials overflow unless the largest logit is subtracted. All sums that are added must subtract the same logit.
    largest = [part.max(axis=1, keepdims=True) for part in parts]
    largest = largest[0] if len(parts) == 1 else jnp.maximum(*largest)
    if axes[0] is not None:
        largest = lax.pmax(largest, axes[0])
    total = 0
    for part, axis_name in zip(parts, axes, strict=True):
        here = jnp.exp(part - largest).sum(axis=1, keepdims=True)
        # A queue that every device holds whole must not be counted once per device.
        total += here if axis_name is None else lax.psum(here, axis_name)
    return largest + jnp.log(total)


def _require_logits(what: str, logits: jax.Array) -> jax.Array:
    """Returns the logits as an array; raises ValueError unless they are `[views, batch, prototypes]` of a floating dtype."""
    shape = getattr(logits, "shape", None)
    # A list of arrays has no shape; chex would check its arrays one by one.
    if shape is None or len(shape) != 3 or 0 in shape:
        raise ValueError(
            f"Expected {what} as one array [views, batch, prototypes] without empty dimensions, got "
            f"{type(logits).__name__ if shape is None else shape}."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise ValueError(f"Expected {what} of a floating dtype, got {logits.dtype}.")
    return jnp.asarray(logits)


def _require_queue(queue_logits: jax.Array, mask: jax.Array | None, logits: jax.Array) -> jax.Array:
    queue_logits = _require_logits("queue_logits", queue_logits)
    queue = queue_logits.shape[1]
    with _batch.refused(
        f"Expected queue_logits [assigned views, queue, prototypes] with {len(logits)} views and {logits.shape[2]} prototypes, "
        f"got {queue_logits.shape}."
    ):
        chex.assert_shape(queue_logits, (len(logits), None, logits.shape[2]))
    if mask is not None and (jnp.shape(mask) != (queue,) or jnp.result_type(mask) != jnp.bool_):
        raise ValueError(
            f"Expected queue_mask as bool of shape ({queue},), got {jnp.result_type(mask)} of shape {jnp.shape(mask)}."
        )
    return queue_logits


def _is_split(given: bool | None, queue_logits: jax.Array, logits: jax.Array, axis_name: str | tuple[str, ...]) -> bool:
    if given is not None:
        return given
    names = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    split = names & jax.typeof(queue_logits).manual_axis_type.varying
    # With several axes the queue may be split over all of them or over none.
    if not names <= jax.typeof(logits).manual_axis_type.varying or split not in (set(), names):
        raise ValueError(
            f"The types do not show whether queue_logits vary over {axis_name!r}: give queue_split=True if each "
            "device holds its own part of the queue, or queue_split=False if it holds the whole queue."
        )
    return bool(split)
