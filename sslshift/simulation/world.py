"""World of studies with known truth: true accuracies, and every source of variation between images and runs."""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import special

# Runs are this many standard deviations within 0 and 100%, so that no accuracy has to be clipped.
_SAFE = 6


@dataclasses.dataclass(frozen=True)
class World:
    """Sizes, true effects and variances of a study. Accuracies, effects and standard deviations are in percentage points.

    A run has a true accuracy: that of its kind plus the effects of its seed, its subset and the run itself. An image is
    classified correctly if a latent normal value of the image and the run is below the quantile of that accuracy. The share
    of images that are right over the population of images is therefore exactly the accuracy of the run, and the mean over
    runs is exactly that of the kind.

    The defaults are those of the quickstart, where four seeds of each of nine kinds were compared on 5,000 test images: the
    accuracies of one kind have a standard deviation of 0.58 points (0.21 to 1.18), of which the choice of images explains
    0.35, and the latent values of two runs have a correlation of 0.84 in one kind and 0.8 in two.

    Attributes:
      methods: number of methods.
      sources: number of sources; their shift indices are spaced equally from 0 to 1.
      unique: numbers of unique samples of each source, ascending; the last one is the budget C.
      seeds: training seeds of each kind.
      draws: draws of each subset, each trained with every seed; 0: each seed draws its own.
      labelled_draws: draws of labelled images, shared by all encoders.
      evaluations: evaluations of every encoder, all with the same true accuracies.
      images: test images.
      finished: share of the runs that are finished, in the order in which a study runs them.
      encoders: reference encoders behind the measured shift indices.
      untrained_seeds: seeds of untrained encoders; at least as many as training seeds.
      untrained: accuracy of untrained encoders and of raw pixels.
      gain: gain over untrained encoders of a source of index 0 at D = 1.
      gain_by_index: change of this gain for each unit of the index.
      trend: trend of accuracy for each factor of ten in D, of a source of index 0.
      trend_by_index: change of the trend for each unit of the index.
      scatter: standard deviation of the sources' trends about that line, the same for every method.
      difficulty: share of the latent variance that an image has in common for all encoders.
      image_by_source: share that an image has in common for the encoders of one source; the rest differs between runs.
      seed: standard deviation of the effect of a seed, common to all trained encoders of a method.
      run: standard deviation of the effect of a run, or of an untrained encoder.
      subset: standard deviation of the effect of a draw of a subset, common to all methods.
      labelled: standard deviation of the effect of a draw of labelled images, common to all encoders.
      evaluation: standard deviation of the effect of an evaluation on a run; the first evaluation has none.
      encoder: standard deviation of the scale of an encoder's indices, whose mean is 1; the error is common to all sources.
      bad: probability that a run goes wrong.
      bad_loss: accuracy that such a run loses compared with the others.
    """

    methods: int = 1
    sources: int = 4
    unique: tuple[int, ...] = (8, 72, 640)
    seeds: int = 3
    draws: int = 0
    labelled_draws: int = 1
    evaluations: int = 1
    images: int = 5000
    finished: float = 1.0
    encoders: int = 1
    untrained_seeds: int = 10
    untrained: float = 70.0
    gain: float = 0.0
    gain_by_index: float = 0.0
    trend: float = 0.0
    trend_by_index: float = 0.0
    scatter: float = 0.0
    difficulty: float = 0.8
    image_by_source: float = 0.04
    seed: float = 0.15
    run: float = 0.4
    subset: float = 0.2
    labelled: float = 0.0
    evaluation: float = 0.0
    encoder: float = 0.0
    bad: float = 0.0
    bad_loss: float = 0.0

    def __post_init__(self):
        for name in ("methods", "sources", "seeds", "labelled_draws", "evaluations", "images", "encoders"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected {name} of at least 1 in a world, got {getattr(self, name)}.")
        if not 0 < self.finished <= 1:
            raise ValueError(f"Expected a share of finished runs above 0 and up to 1 in a world, got {self.finished}.")
        if not self.unique or list(self.unique) != sorted(set(self.unique)) or self.unique[0] < 1:
            raise ValueError(f"Expected ascending numbers of unique samples from 1 in a world, got {self.unique}.")
        if min(self.difficulty, self.image_by_source) < 0 or self.difficulty + self.image_by_source > 1:
            raise ValueError(
                "Expected shares of the latent variance of at least 0 and at most 1 together, got "
                f"difficulty={self.difficulty} and image_by_source={self.image_by_source}."
            )
        parts = (self.seed, self.run, self.subset, self.labelled, self.evaluation)
        spread = _SAFE * np.sqrt(np.square(parts).sum()) + self.bad_loss
        reached = [self.untrained, *self.accuracies(self.expected_trends).ravel()]
        if min(reached) - spread < 0 or max(reached) + spread > 100:
            raise ValueError(
                f"Expected accuracies of runs between 0 and 100%, got means of {min(reached):g} to {max(reached):g} and a "
                f"spread of {spread:g} points."
            )

    @property
    def index(self) -> np.ndarray:
        """The true shift index of each source."""
        return np.linspace(0, 1, self.sources)

    @property
    def log_diversity(self) -> np.ndarray:
        """The logarithm of D, to base 10, of each number of unique samples."""
        return np.log10(np.divide(self.unique, self.unique[-1]))

    @property
    def expected_trends(self) -> np.ndarray:
        """The trend of each source without scatter between sources."""
        return self.trend + self.trend_by_index * self.index

    def accuracies(self, trends: np.ndarray) -> np.ndarray:
        """Returns the true accuracy of each source and number of unique samples, `[sources, levels]`."""
        ends = self.untrained + self.gain + self.gain_by_index * self.index
        return ends[:, None] + trends[:, None] * self.log_diversity

    @property
    def replicates(self) -> list[tuple[int, int]]:
        """The (draw, seed) pairs of each kind, in the order in which a study runs them."""
        crossed = [(draw, seed) for draw in range(self.draws) for seed in range(self.seeds)]
        return crossed or [(seed, seed) for seed in range(self.seeds)]


class Answers(NamedTuple):
    """Right and wrong predictions by one evaluation.

    Attributes:
      trained: whether a run is right on an image, `[methods, sources, levels, replicates, labelled draws, images]`.
      untrained: the same for untrained encoders, `[methods, seeds, labelled draws, images]`.
      pixels: the same for raw pixels, `[labelled draws, images]`.
    """

    trained: np.ndarray
    untrained: np.ndarray
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class SimulatedStudy:
    """One study of a world.

    Attributes:
      world: the world.
      trends: true trend of each source, `[sources]`.
      index_by_encoder: measured shift index of each source by each reference encoder, `[encoders, sources]`.
      run_accuracies: true accuracy of each run, `[methods, sources, levels, replicates, labelled draws]`.
      answers: predictions by each evaluation.
    """

    world: World
    trends: np.ndarray
    index_by_encoder: np.ndarray
    run_accuracies: np.ndarray
    answers: tuple[Answers, ...]

    @property
    def trained(self) -> np.ndarray:
        """The predictions of runs by the first evaluation."""
        return self.answers[0].trained

    @property
    def untrained(self) -> np.ndarray:
        """The predictions of untrained encoders by the first evaluation."""
        return self.answers[0].untrained

    @property
    def pixels(self) -> np.ndarray:
        """The predictions from raw pixels by the first evaluation."""
        return self.answers[0].pixels

    @property
    def accuracies(self) -> np.ndarray:
        """The true accuracy of each source and number of unique samples, `[sources, levels]`."""
        return self.world.accuracies(self.trends)


def simulate(world: World, random: np.random.Generator) -> SimulatedStudy:
    """Returns one study of a world.

    Args:
      world: the world.
      random: source of randomness; the same state gives the same study.
    """
    trends = world.expected_trends + random.normal(0, world.scatter, world.sources)
    scales = random.normal(1, world.encoder, (world.encoders, 1))
    labelled = random.normal(0, world.labelled, world.labelled_draws)
    runs = _run_accuracies(world, trends, random)[..., None] + labelled
    untrained = (
        world.untrained + random.normal(0, world.run, (world.methods, max(world.seeds, world.untrained_seeds), 1)) + labelled
    )
    # An image is as difficult for a draw of labelled images as for another, but not for untrained encoders and raw pixels,
    # which are two further sources.
    images = np.sqrt(world.difficulty) * random.standard_normal(world.images, np.float32)
    shape = (world.sources + 2, world.images)
    by_source = images + np.sqrt(world.image_by_source) * random.standard_normal(shape, np.float32)
    of_run = np.float32(np.sqrt(1 - world.difficulty - world.image_by_source))

    def right(accuracies, latent):
        # `latent` has the axes of the accuracies and one for the images.
        own = of_run * random.standard_normal((*accuracies.shape, world.images), np.float32)
        return latent + own < special.ndtri(accuracies / 100).astype(np.float32)[..., None]

    answers = []
    for number in range(world.evaluations):
        # Each evaluation errs on a run in its own way; what an image has in common for all encoders is common to evaluations.
        scale = world.evaluation if number else 0.0
        own_runs, own_untrained = (each + random.normal(0, scale, each.shape) if scale else each for each in (runs, untrained))
        answers.append(
            Answers(
                right(own_runs, by_source[:-2, None, None, None]),
                right(own_untrained, by_source[-2]),
                right(world.untrained + labelled, by_source[-1]),
            )
        )
    return SimulatedStudy(world, trends, scales * world.index, runs, tuple(answers))


def _run_accuracies(world: World, trends: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns the true accuracy of each run, `[methods, sources, levels, replicates]`."""
    draw, seed = np.transpose(world.replicates)
    shape = (world.methods, world.sources, len(world.unique), len(seed))
    by_seed = random.normal(0, world.seed, (world.methods, 1, 1, world.seeds))[..., seed]
    by_subset = random.normal(0, world.subset, (*shape[1:3], max(draw) + 1))[..., draw]
    # Good runs gain what bad ones lose on average, so that the mean over runs is that of the kind.
    bad = world.bad_loss * (world.bad - (random.random(shape) < world.bad))
    return world.accuracies(trends)[..., None] + by_seed + by_subset + random.normal(0, world.run, shape) + bad
