"""Scores of many encoders: the axes of their chance, and the runs that are compared of a study that is not finished."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift.transfer.evaluation import Outcome
from sslshift.transfer.inference import Bootstrapped, compare, estimate_mean, runs_interval, variance_components
from sslshift.transfer.matrix import ScoredEncoder, comparisons, score_table
from sslshift.transfer.metrics import METRICS
from sslshift.transfer.paired import EncoderPredictions, PairedScores
from sslshift.transfer.predictions import Predictions, save_predictions
from sslshift.transfer.protocol import Evaluated
from sslshift.transfer.scores import EvaluatedEncoder, TaskScores

IMAGES = 40


def encoder(kind, seed, draw, correct):
    """An encoder that is right where `correct` says so, `[images]` or `[labelled draws, images]`."""
    predicted = 1 - np.asarray(correct, int)
    images = predicted.shape[-1]
    arrays = Predictions("accuracy", np.zeros(images, int), np.arange(images), {"linear": predicted})
    return EncoderPredictions(kind, seed, draw, arrays)


def study(random, places, kinds=("near", "far")):
    """Paired scores of kinds with runs at these (seed, draw) pairs, and an untrained encoder of every seed."""
    runs = [encoder(kind, *place, random.random(IMAGES) < 0.7) for kind in kinds for place in places]
    baselines = [encoder("untrained", seed, None, random.random(IMAGES) < 0.5) for seed in {seed for seed, _ in places}]
    return PairedScores.of_members([*runs, *baselines], "linear")


def crossed(random, of_draws, shape=(3, 3, 20), replicates=100):
    """A mean of 0 in points: seeds, draws, runs, labelled draws that all runs share, and test images, each with its chance."""
    seeds, draws, labelled = shape
    run = (
        random.normal(0, 0.4, (seeds, 1, 1))
        + random.normal(0, of_draws, (1, draws, 1))
        + random.normal(0, 0.3, (seeds, draws, 1))
    )
    values = run + random.normal(0, 1.5, labelled) + random.normal(0, 0.5, shape)
    over_images = random.normal(0, 0.9, (replicates + 1, 1, 1, 1)) + random.normal(0, 0.5, (replicates + 1, seeds, draws, 1))
    values = values + over_images[0]
    return Bootstrapped(values, values + over_images[1:])


@pytest.mark.parametrize("of_draws", [0.2, 0.5, 1.0])
def test_few_shot_means_over_draws_of_the_subset_cover_the_truth(of_draws):
    random = np.random.default_rng(0)
    times = 500
    covered = np.zeros(2)
    for _ in range(times):
        numbers = crossed(random, of_draws)
        # As if the 3 x 20 values of a seed were 60 draws.
        merged = Bootstrapped(*(each.reshape(*each.shape[:-2], -1, 1) for each in numbers))
        covered += [each.low <= 0 <= each.high for each in (estimate_mean(each, 1000) for each in (numbers, merged))]
    apart, together = covered / times
    # Three standard deviations of 500 tries are 3 points.
    assert 0.92 <= apart <= 0.98
    assert of_draws < 0.5 or together < apart - 0.02


def test_every_factor_contributes_once():
    values = np.zeros((2, 3, 4)) + np.array([0.0, 2.0])[:, None, None] + np.array([0.0, 3.0, 6.0])[:, None] + np.arange(4.0)
    found = variance_components([Bootstrapped(values, np.stack([values, values]))])
    assert [(each.factor, each.degrees_of_freedom) for each in found] == [("seeds", 1), ("draws", 2), ("labelled draws", 3)]
    # By hand: variances 2, 9 and 5/3, divided by the numbers of levels.
    assert [each.variance for each in found] == pytest.approx([1.0, 3.0, 5 / 12])
    alone = variance_components([Bootstrapped(values[:, :1, :1], np.stack([values, values])[:, :, :1, :1])])
    assert [each.factor for each in alone] == ["seeds"]


def test_labelled_draws_that_all_runs_share_are_not_averaged_by_more_runs(random):
    labelled = random.normal(0, 1.0, 5)
    few, many = (np.zeros((seeds, 1, 5)) + labelled for seeds in (3, 30))
    intervals = [estimate_mean(Bootstrapped(each, np.stack([each, each])), 1000) for each in (few, many)]
    assert intervals[0][1:3] == pytest.approx(intervals[1][1:3])


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        # Each seed draws its own subset.
        ([(0, 0), (1, 1), (2, 2)], [[(0, 0)], [(1, 1)], [(2, 2)]]),
        # Complete, in any order.
        ([(1, 0), (0, 0), (0, 1), (1, 1)], [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]),
        # One seed has all three draws, which alone would be one seed.
        ([(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)], [[(0, 0)], [(1, 0)], [(2, 0)]]),
        # A block of several seeds and draws, and not the five runs of the first draw.
        ([*((seed, 0) for seed in range(5)), (0, 1), (1, 1)], [[(0, 0), (0, 1)], [(1, 0), (1, 1)]]),
        # Two seeds of one draw rather than one seed of two.
        ([(0, 0), (0, 1), (1, 1)], [[(0, 1)], [(1, 1)]]),
    ],
)
def test_of_an_unfinished_study_a_complete_block_is_compared(random, places, expected):
    scores = study(random, places)
    for kinds in (["near"], ["near", "far"], ["near", "untrained"]):
        grid = scores.grid(kinds)
        assert grid.values.shape == (len(kinds), len(expected), len(expected[0]), 1)
        for row, of_seed in zip(expected, grid.values[0], strict=True):
            for place, value in zip(row, of_seed, strict=True):
                assert value == scores.scores["near"][place][0]
        assert scores.single_seed(kinds) == (len(expected) < 2)


@settings(max_examples=60, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_blocks_are_the_best_of_all_that_there_are(places):
    """Against every subset of seeds and of draws, tried one by one."""
    scores = study(np.random.default_rng(0), sorted(places), kinds=("near",))
    shape = scores.grid(["near"]).values.shape[1:3]
    assert scores.single_seed(["near"]) == (shape[0] < 2)
    sizes = [
        (min(seeds.bit_count(), 2), min(draws.bit_count(), 2), seeds.bit_count() * draws.bit_count(), seeds.bit_count())
        for seeds in range(1, 16)
        for draws in range(1, 16)
        if all((s, d) in places for s in range(4) if seeds >> s & 1 for d in range(4) if draws >> d & 1)
    ]
    own_draws = len(places) == len({seed for seed, _ in places}) == len({draw for _, draw in places})
    expected = (len(places), 1) if own_draws else (max(sizes)[3], max(sizes)[2] // max(sizes)[3])
    assert shape == expected


def test_a_baseline_without_seeds_is_compared_with_every_run(random):
    members = [encoder("near", seed, seed, random.random(IMAGES) < 0.7) for seed in range(3)]
    scores = PairedScores.of_members([*members, encoder("pixels", None, None, random.random(IMAGES) < 0.5)], "linear")
    assert scores.grid(["near", "pixels"]).values.shape == (2, 3, 1, 1)
    assert scores.single_seed(["pixels"])
    assert not scores.single_seed(["near", "pixels"])
    assert scores.grid(["near", "nothing"]) is None
    assert scores.single_seed(["near", "nothing"])


def test_labelled_draws_have_their_own_axis(random):
    members = [encoder("near", seed, draw, random.random((4, IMAGES)) < 0.7) for seed in range(3) for draw in range(2)]
    grid = PairedScores.of_members(members, "linear").grid(["near"])
    assert grid.values.shape == (1, 3, 2, 4)
    assert grid.replicates.shape == (1000, 1, 3, 2, 4)
    assert [each.factor for each in variance_components([Bootstrapped(grid.values[0], grid.replicates[:, 0])])] == [
        "seeds",
        "draws",
        "labelled draws",
    ]


def finished(folder, predicted):
    """An encoder whose linear probe predicted these classes for labels of 0, with its predictions in a folder."""
    labels = np.zeros(predicted.shape[-1], int)
    outcomes = {"linear": Outcome(predicted, 0.0, {})}
    kept = Evaluated("task", "accuracy", outcomes, labels, np.arange(len(labels)), 1.0, (), ())
    save_predictions(kept, folder)
    return EvaluatedEncoder({"task": TaskScores.of_results([kept.scores()])}, {"task": (folder,)})


def test_finished_encoders_are_compared_on_a_block_of_seeds_and_draws(random, tmp_path):
    """As `tools.evaluate` does; the first kind lacks a run, and a baseline has seeds only."""
    places = [(seed, draw) for draw in range(3) for seed in range(3)]
    arrays = {kind: {place: (random.random(60) < 0.4).astype(int) for place in places} for kind in ("near", "far")}
    del arrays["near"][2, 2]
    kinds = {
        kind: [ScoredEncoder(*place, finished(tmp_path / f"{kind}{place}", each)) for place, each in own.items()]
        for kind, own in arrays.items()
    }
    untrained = [(random.random(60) < 0.6).astype(int) for _ in range(3)]
    kinds["untrained"] = [
        ScoredEncoder(seed, seed, finished(tmp_path / f"untrained{seed}", each)) for seed, each in enumerate(untrained)
    ]
    labels = np.zeros(60, int)
    # Of equal blocks, three seeds of two draws and two seeds of three, the one with more seeds.
    runs = [np.stack([arrays["near"][seed, draw] for draw in (0, 1)])[:, None] for seed in range(3)]
    everything = [np.stack([arrays["far"][seed, draw] for draw in range(3)])[:, None] for seed in range(3)]
    accuracy = METRICS["accuracy"]
    scores = score_table(kinds, ["task"])
    assert scores["near", "task", "linear"] == runs_interval(accuracy, runs, labels, resamples=1000)
    assert scores["far", "task", "linear"] == runs_interval(accuracy, everything, labels, resamples=1000)
    found = comparisons(kinds, ["untrained"], ["task"])
    assert (
        found["far", "untrained", "task", "linear"][:3] == compare(accuracy, everything, untrained, labels, resamples=1000)[:3]
    )
    assert found["near", "far", "task", "linear"][:3] == compare(accuracy, runs, everything, labels, resamples=1000)[:3]


def test_a_reference_with_more_seeds_is_more_precise(random):
    """Ten untrained encoders against three trained ones: each side has its own component, and the means are those of all."""
    three = [(seed, 0) for seed in range(3)]
    runs = [encoder("near", *place, random.random(IMAGES) < 0.7) for place in three]
    untrained = [encoder("untrained", seed, None, random.random(IMAGES) < 0.5) for seed in range(10)]
    scores = PairedScores.of_members([*runs, *untrained], "linear")
    found = scores.over_reference("near", "untrained")
    of_kind, of_reference = (scores.grid([kind]).values[0, :, 0, 0] for kind in ("near", "untrained"))
    assert found.value == pytest.approx(of_kind.mean() - of_reference.mean())
    by_factor = {each.factor: each for each in found.components}
    assert by_factor["seeds"].variance == pytest.approx(of_kind.var(ddof=1) / 3)
    assert by_factor["seeds of the reference"].variance == pytest.approx(of_reference.var(ddof=1) / 10)
    assert by_factor["seeds of the reference"].degrees_of_freedom == 9
    # With as many seeds as the kind, both are paired seed by seed.
    paired = PairedScores.of_members([*runs, *untrained[:3]], "linear").over_reference("near", "untrained")
    assert [each.factor for each in paired.components] == ["seeds"]
    assert paired.components[0].variance == pytest.approx((of_kind - of_reference[:3]).var(ddof=1) / 3)
