"""Full fine-tuning: the whole encoder and a linear head are trained on the labels of a task."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError

from sslshift import cluster
from sslshift.budget import Budget
from sslshift.data import SamplePlan
from sslshift.data.decode import Canvas
from sslshift.data.mixture import single
from sslshift.data.pipeline import BatchReader, batches
from sslshift.data.sources import PartialSource, cached
from sslshift.data.views import ViewSettings
from sslshift.models import PretrainedEncoder
from sslshift.training.guards import NonFiniteError
from sslshift.training.optimiser import Optimiser
from sslshift.training.step import make_mesh, replicate, shard_batch
from sslshift.transfer.evaluation import Outcome
from sslshift.transfer.finetune_step import FineTuneState, LabelledBatch, Network, compiled_scores, compiled_step
from sslshift.transfer.metrics import Metric
from sslshift.transfer.tasks import LabelledImages, Task


def no_steps(done: int, total: int) -> None:
    """Ignores the progress."""
    del done, total


@dataclasses.dataclass(frozen=True)
class FineTune:
    """Fine-tuning of all of an encoder's weights; the learning rate is chosen on the validation split after the last epoch.

    The defaults are MAE's published recipe for a ViT on a large task, without RandAugment and random erasing, on the
    encoder's pooled features. On a few hundred images it stops long before the training loss has converged; use small batches,
    milder augmentation, and higher learning rates then.

    Example:
      >>> few_images = FineTune((2e-3, 8e-3, 3e-2), epochs=50, batch_size=32, mixup=0, cutmix=0, min_crop_scale=0.5)

    Args:
      learning_rates: learning rates to choose from, for a batch of 256; they are multiplied by batch / 256.
      epochs: number of times that every training image is seen; some are seen once more to fill the last batch.
      batch_size: number of images in a batch over all devices; reduced if there are fewer images, and rounded to a multiple of
        the number of devices.
      optimiser: `adamw`, `sgd` or `lars`.
      weight_decay: weight decay of weights; biases, norms and positions have none.
      layer_decay: factor on the learning rate from each layer to the one below it, see `layer_numbers`; 1 is usual for a ResNet
        and means no decay.
      warmup: share of the steps in which the learning rate rises; it then falls to 0 as a cosine.
      label_smoothing: see `mixing.label_vectors`.
      mixup, cutmix: parameters of mixup and CutMix; 0 disables a method, see `mixing.share_map`.
      drop_path: rate of a ViT's stochastic depth; ignored by other encoders.
      min_crop_scale: the smallest share of an image's area that a training crop shows.
      flip_probability: probability that a training image is mirrored; use 0 if left and right differ in meaning.
      batch_norm: `train`: the encoder's batch norms are trained and use statistics of the task. `frozen`: statistics, scales
        and offsets stay as they are, which suits few images or small batches.
      seed: random seed of augmentation and order.

    References:
      He et al., `Masked Autoencoders Are Scalable Vision Learners <https://arxiv.org/abs/2111.06377>`_, 2022, table 9
    """

    learning_rates: tuple[float, ...] = (5e-4,)
    epochs: int = 100
    batch_size: int = 256
    optimiser: str = "adamw"
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    warmup: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    drop_path: float = 0.1
    min_crop_scale: float = 0.08
    flip_probability: float = 0.5
    batch_norm: str = "train"
    seed: int = 0

    def __post_init__(self):
        if not self.learning_rates or self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"Expected a learning rate, and at least 1 for epochs and batch_size of fine-tuning, got {self}.")
        if self.batch_norm not in ("train", "frozen"):
            raise ValueError(f"Expected one of train, frozen for batch_norm of fine-tuning, got {self.batch_norm!r}.")
        if not (0 <= self.label_smoothing < 1 and 0 <= self.drop_path < 1 and min(self.mixup, self.cutmix) >= 0):
            raise ValueError(
                f"Expected label_smoothing and drop_path in [0, 1), and mixup and cutmix of at least 0, got {self}."
            )
        # Views and optimiser are built once here, so that errors in their settings are raised before training.
        _ = self._view, [self._optimiser(rate) for rate in self.learning_rates]

    @property
    def name(self) -> str:
        """Name of the outcome."""
        return "finetune" if self.batch_norm == "train" else "finetune_frozen_bn"

    def __call__(
        self, encoder: PretrainedEncoder, task: Task, metric: Metric, *, on_step: Callable[[int, int], None] = no_steps
    ) -> dict[str, Outcome]:
        """Trains with each learning rate, chooses one, and scores the test split once.

        The image that replaces an unreadable training image has no weight in the loss.

        Args:
          encoder: encoder whose pooled features are used; it is not changed.
          task: labelled images in three splits.
          metric: metric that chooses the learning rate on the validation split; the first of equally good rates is chosen.
          on_step: callback that receives the number of steps done and the total, over all learning rates.

        Returns:
          One outcome, `finetune` or, with frozen batch norm, `finetune_frozen_bn`.

        Raises:
          NonFiniteError: the loss became non-finite with every learning rate.
          BrokenImageError: an image of the validation or test split, or every training image, cannot be read.
          ValueError: the encoder takes images of another shape than that of the task.
        """
        training = _Training.of(task, self)
        network = self._network(encoder, task.classes, training)
        total = len(self.learning_rates) * training.steps
        best = None
        lost = []
        for number, rate in enumerate(self.learning_rates):

            def report(step: int, before: int = number * training.steps) -> None:
                on_step(before + step, total)

            # Every training starts from the encoder, so that trainings differ only in their learning rate.
            state = _trained(network, training, _start(network, encoder, task.canvas), rate, report)
            scores = _scores(network, state, task.validation, task.canvas)
            if not state.finite or not np.isfinite(scores).all():
                lost.append(f"{rate:g}")
                # A training that stopped early counts as complete, so that the progress reaches its total.
                report(training.steps)
                continue
            value = float(metric.value(metric.decide(scores), task.validation.labels))
            # Only the best state is kept, because all states could exceed the memory of a device.
            if best is None or value > best.validation:
                best = _Best(state.replace(optimiser=()), rate, value)
        if best is None:
            raise NonFiniteError(
                f"Fine-tuning: the loss became non-finite with every learning rate ({', '.join(lost)}); try lower ones."
            )
        predictions = metric.decide(_scores(network, best.state, task.test, task.canvas))
        notes = tuple(self._notes(encoder, training, lost))
        return {self.name: Outcome(predictions, best.validation, {"learning_rate": best.rate}, notes)}

    @property
    def _view(self) -> ViewSettings:
        return ViewSettings(
            min_crop_scale=self.min_crop_scale,
            jitter_probability=0.0,
            grayscale_probability=0.0,
            flip_probability=self.flip_probability,
        )

    def _optimiser(self, rate: float) -> Optimiser:
        return Optimiser(self.optimiser, rate, self.weight_decay, self.warmup, layer_decay=self.layer_decay)

    def _network(self, encoder: PretrainedEncoder, classes: int, training: "_Training") -> Network:
        module = encoder.module
        # The encoder may have been trained with another drop-path rate.
        if hasattr(module, "drop_path"):
            module = module.clone(drop_path=self.drop_path)
        return Network(
            module,
            encoder.mean,
            encoder.std,
            classes,
            self._view,
            # The step replaces the learning rate, so that all rates share one compiled program.
            self._optimiser(self.learning_rates[0]),
            training.steps,
            training.batch_size,
            self.label_smoothing,
            self.mixup,
            self.cutmix,
            # Without batch norm, evaluation mode would only disable the drop path of a ViT.
            frozen_norm=self.batch_norm == "frozen" and _has_batch_norm(encoder),
        )

    def _notes(self, encoder: PretrainedEncoder, training: "_Training", lost: list[str]) -> Iterator[str]:
        images = len(training.labels)
        # Each process has read its part of the images.
        parts = cluster.gathered("unreadable images of fine-tuning", sorted(training.broken.items()))
        broken = dict(tuple(each) for part in parts for each in part)
        if self.batch_norm == "frozen" and not _has_batch_norm(encoder):
            yield "this encoder has no batch norm to freeze, so all its parameters were trained"
        if training.batch_size != self.batch_size:
            yield (
                f"batches held {training.batch_size:,} images, not {self.batch_size:,}: there are {images:,} training images, "
                f"and {make_mesh().size} devices share every batch equally"
            )
        if lost:
            yield f"the loss became non-finite with learning rate {', '.join(lost)}, which was excluded from the choice"
        if broken:
            example = broken[min(broken)]
            yield f"{len(broken):,} of {images:,} training images cannot be read and had no weight in the loss, e.g. {example}"


class _Best(NamedTuple):
    """The best learning rate so far; the optimiser's state is dropped, because AdamW's is twice as large as the weights."""

    state: FineTuneState
    rate: float
    validation: float


class _Training(NamedTuple):
    """The training images in batches.

    Attributes:
      reader: reader of the batches.
      labels: labels by the indices of the reader's source.
      broken: reasons why images could not be read, by index; filled while batches are read.
    """

    reader: BatchReader
    labels: np.ndarray
    broken: dict[int, str]

    @classmethod
    def of(cls, task: Task, settings: FineTune) -> "_Training":
        images = len(task.train.indices)
        # The number of devices must divide the batch size.
        devices = make_mesh().size
        batch_size = max(min(settings.batch_size, images) // devices, 1) * devices
        # Rounded up, so that the last epoch sees every image.
        budget = Budget(-(-settings.epochs * images // batch_size) * batch_size)
        # A plan draws from all images of its source, so the source is first reduced to the training split.
        source = cached(PartialSource(task.train.source, task.train.indices), task.canvas)
        plan = SamplePlan(single(source.name, images, images), budget, batch_size, settings.seed, subset_seed=0)
        labels = task.train.labels
        # Labels are converted to the dtype on the devices once, not for every batch.
        labels = labels.astype(np.int32 if labels.ndim == 1 else np.uint8)
        reader = BatchReader(plan, {source.name: source}, task.canvas, cluster.process_index(), cluster.process_count())
        return cls(reader, labels, {})

    @property
    def batch_size(self) -> int:
        return self.reader.plan.batch_size

    @property
    def steps(self) -> int:
        return self.reader.plan.budget.steps(self.batch_size)

    def batches(self) -> Iterator[LabelledBatch]:
        """Yields all batches in order."""
        own = _own_part(self.batch_size)
        for step, batch in enumerate(batches(self.reader, 0, self.steps)):
            index = self.reader.plan.batch(step).index[own]
            unreadable = {one.index: one.reason for one in batch.broken}
            self.broken.update(unreadable)
            weights = ~np.isin(index, list(unreadable))
            yield LabelledBatch(batch.images, self.labels[index], weights.astype(np.float32))


def _own_part(count: int) -> slice:
    """Returns the part of a batch that this process reads; the processes divide it equally."""
    local = count // cluster.process_count()
    return slice(cluster.process_index() * local, (cluster.process_index() + 1) * local)


def _has_batch_norm(encoder: PretrainedEncoder) -> bool:
    return bool(encoder.variables.get("batch_stats"))


def _start(network: Network, encoder: PretrainedEncoder, canvas: Canvas) -> FineTuneState:
    """Returns the state before training, on all devices."""
    # An encoder of colour images takes grey ones with their channel repeated.
    images = jax.ShapeDtypeStruct((network.batch_size, *canvas[:2], encoder.shape[2]), jnp.float32)
    try:
        return replicate(make_mesh(), network.init(encoder.variables, images))
    except ScopeParamShapeError as error:
        raise ValueError(
            f"This {type(network.module).__name__} takes images of another shape than {tuple(canvas)}: {error}"
        ) from error


def _trained(
    network: Network, training: _Training, state: FineTuneState, rate: float, on_step: Callable[[int], None]
) -> FineTuneState:
    """Returns the state after the last step, or after the first epoch with a non-finite loss."""
    mesh = make_mesh()
    step_fn = compiled_step(network, mesh)
    epoch = max(1, len(training.labels) // network.batch_size)
    # Arrays are placed before the loop, because the transfer guard rejects host arrays.
    rate = replicate(mesh, jnp.float32(rate))
    key = replicate(mesh, jax.random.key(training.reader.plan.seed))
    before = None
    for step, batch in enumerate(training.batches(), 1):
        sharded = LabelledBatch(*(shard_batch(mesh, part) for part in batch))
        # The guard covers only the dispatch, because other work in the loop may copy arrays to the host.
        with jax.transfer_guard("disallow"):
            state, loss = step_fn(state, sharded, rate, key)
        # Waiting for an earlier step limits the batches on the device; waiting for the current step would leave it idle.
        if before is not None:
            before.block_until_ready()
        before = loss
        on_step(step)
        # The flag is checked once per epoch, because reading it waits for the device.
        if step % epoch == 0 and not jax.device_get(state.finite):
            break
    return state


def _scores(network: Network, state: FineTuneState, images: LabelledImages, canvas: Canvas) -> np.ndarray:
    """Returns the logits of a split, `[n, classes]`, in evaluation mode."""
    mesh = make_mesh()
    compiled = compiled_scores(network, mesh)
    size = network.batch_size
    parts = []
    for start in range(0, len(images.indices), size):
        indices = images.indices[start : start + size]
        # The last batch is padded, so that only one shape is compiled; the padding is removed afterwards.
        filled = np.concatenate([indices, np.repeat(indices[-1:], size - len(indices))])
        batch = images.source.read(filled[_own_part(size)], canvas)
        parts.append(jax.device_get(compiled(state.params, state.batch_stats, shard_batch(mesh, batch)))[: len(indices)])
    return np.concatenate(parts)
