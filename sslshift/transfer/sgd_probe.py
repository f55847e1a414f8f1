"""The linear probe of most publications: SGD on frozen features, with the recipe of solo-learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sslshift.transfer.evaluation import Outcome, Splits, best_index, grid_edge_notes, require_labels, score
from sslshift.transfer.metrics import Metric


@dataclasses.dataclass(frozen=True)
class SGDProbe:
    """A linear classifier trained by SGD on features without standardisation; the validation split chooses its learning rate.

    The recipe is that of solo-learn's offline evaluation on ImageNet-100: momentum, no weight decay, batches of 256 in a new
    order in each epoch without the last incomplete batch, and 100 epochs with two divisions of the learning rate by 10. The
    differences are:

    - features are computed once, from images without augmentation; the recipe crops and flips them anew in every epoch, which
      improves its accuracy somewhat;
    - several learning rates are trained, and the validation split chooses one after the LAST epoch; published figures are often
      those of the best epoch on the test images;
    - weights start at zero, not at random: the problem is convex, and only the order of the images depends on a seed.

    If there are fewer images than the batch size, the batch contains all of them.

    Attributes:
      learning_rates: learning rates above 0 to choose from; not scaled by the batch size.
      batch_size: number of images in a batch.
      epochs: number of passes over the training split.
      decay_epochs: epochs, counted from 0, at whose start the learning rate is divided by 10.
      momentum: momentum of SGD.

    References:
      da Costa et al., `solo-learn: A Library of Self-supervised Methods for Visual Representation Learning
      <https://jmlr.org/papers/v23/21-1155.html>`_, 2022
    """

    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    batch_size: int = 256
    epochs: int = 100
    decay_epochs: tuple[int, ...] = (60, 80)
    momentum: float = 0.9

    def __post_init__(self):
        if not self.learning_rates or not min(self.learning_rates) > 0:
            raise ValueError(f"Expected learning rates above 0 for the SGD probe, got {self.learning_rates}.")
        if self.batch_size < 1 or self.epochs < 1 or not 0 <= self.momentum < 1:
            raise ValueError(
                "Expected a batch size and a number of epochs of at least 1 and a momentum in [0, 1) for the SGD probe, got "
                f"{self.batch_size}, {self.epochs} and {self.momentum}."
            )

    def __call__(self, splits: Splits, metric: Metric) -> dict[str, Outcome]:
        """Returns one outcome, `sgd`."""
        train, validation, test, classes = splits
        weights, bias = self._fitted(train.features, train.labels, classes)
        values = [score(metric, scores, validation) for scores in _scores(validation.features, weights, bias)]
        if np.isnan(values).all():
            # With only nan values, best_index would return the first rate, which diverged too.
            return {"sgd": Outcome.excluded(metric, splits, "Excluded: training diverged at every learning rate.")}
        choice = best_index(values)
        rate = self.learning_rates[choice]
        # The place of the rate is an array, so that the choice compiles nothing.
        (scores,) = _scores(test.features, weights, bias, np.array([choice]))
        predictions = metric.decide(scores)
        notes = grid_edge_notes("learning rate", self.learning_rates, rate)
        return {"sgd": Outcome(predictions, values[choice], {"learning_rate": rate}, notes)}

    def fit(self, features: np.ndarray | jax.Array, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns weights `[rates, dim, classes]` and bias `[rates, classes]` after the last epoch; they may be nan or inf."""
        return jax.device_get(self._fitted(features, labels, classes))

    def _fitted(self, features, labels, classes) -> tuple[jax.Array, jax.Array]:
        require_labels(np.asarray(labels), len(features), classes)
        # Otherwise a training split smaller than a batch would have no complete batch and would never be used.
        batch = min(self.batch_size, len(features))
        decays = np.sum(np.arange(self.epochs)[:, None] >= np.array(self.decay_epochs, int), axis=1)
        rates = np.array(self.learning_rates)[None] * 0.1 ** decays[:, None]
        return _train(
            jnp.asarray(features, jnp.float32),
            jnp.asarray(labels),
            jnp.asarray(rates, jnp.float32),
            self.momentum,
            batch=batch,
            classes=classes,
        )


def order(epoch: int | jax.Array, images: int) -> jax.Array:
    """Returns the order of the images in an epoch, the same for every encoder."""
    # The order is drawn on the device from the number of the epoch, so that no order is stored or transferred.
    return jax.random.permutation(jax.random.fold_in(jax.random.key(0), epoch), images)


def _scores(
    features: np.ndarray | jax.Array, weights: jax.Array, bias: jax.Array, places: np.ndarray | None = None
) -> np.ndarray:
    """Returns the logits `[places, n, classes]` of the classifiers at some places, or of all, on the host."""
    places = np.arange(len(weights)) if places is None else places
    return jax.device_get(_logits(jnp.asarray(features, jnp.float32), weights, bias, places))


@jax.jit
def _logits(features, weights, bias, places):
    # One after another, since a batched product takes longer on a CPU.
    return lax.map(lambda place: _matmul(features, weights[place]) + bias[place][None], places)


# Without this precision, GPUs multiply float32 matrices in TF32.
_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


@functools.partial(jax.jit, static_argnames=("batch", "classes"))
def _train(features, labels, rates, momentum, *, batch, classes):
    """Returns weights and biases of one classifier for each column of rates `[epochs, rates]`, trained side by side."""
    images, dim = features.shape

    def loss(params, features, labels):
        weights, bias = params
        logits = _matmul(features, weights) + bias[None]
        if labels.ndim == 1:
            chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)
            return -jnp.mean(chosen)
        return jnp.mean(jnp.sum(jax.nn.softplus(logits) - logits * labels.astype(logits.dtype), axis=1))

    # All learning rates see the same batches, so that one pass over the features serves all of them.
    gradients = jax.vmap(jax.grad(loss), in_axes=(0, None, None))

    def step(rates, carry, chosen):
        params, velocity = carry
        found = gradients(params, features[chosen], labels[chosen])
        # PyTorch's form of momentum, which the recipe uses: the velocity does not contain the learning rate.
        velocity = jax.tree.map(lambda v, g: momentum * v + g, velocity, found)
        params = jax.tree.map(lambda p, v: p - jnp.expand_dims(rates, tuple(range(1, p.ndim))) * v, params, velocity)
        return (params, velocity), None

    def run_epoch(carry, epoch_and_rates):
        epoch, rates = epoch_and_rates
        # As in the recipe, the last incomplete batch is dropped; the order differs in every epoch, so all images are used.
        batches = order(epoch, images)[: images // batch * batch].reshape(-1, batch)
        return lax.scan(functools.partial(step, rates), carry, batches)[0], None

    # The problem is convex, so training can start at zero; the first gradient is then the same for every rate.
    zeros = jnp.zeros((rates.shape[1], dim, classes)), jnp.zeros((rates.shape[1], classes))
    (params, _), _ = lax.scan(run_epoch, (zeros, zeros), (jnp.arange(len(rates)), rates))
    return params
