"""Simulated studies have the truth that their world says, and measurements of them find statistics that claim too much."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sslshift.simulation import SCENARIOS, Share, World, measure, measurement, simulate
from sslshift.simulation.outcomes import claims_something, outcome
from sslshift.simulation.studies import open_world, results_of
from sslshift.study.analysis import Analysis
from sslshift.transfer.claims import GAIN, PAIR, PIXELS, TREND
from sslshift.transfer.inference import estimation
from tools.bench_statistics import measure_statistics

# Few images and runs, so that a study takes hundredths of a second.
SMALL = World(sources=3, unique=(64, 640), images=200)


@pytest.fixture
def few_resamples(monkeypatch):
    """Replicates of the bootstrap that suffice for coverage in hundredths, in a fifth of the time."""
    monkeypatch.setattr("sslshift.transfer.paired._REPLICATES", 200)


def studies(world, count, seed=0):
    return [simulate(world, np.random.default_rng([seed, number])) for number in range(count)]


def test_true_accuracies_by_hand():
    world = World(sources=3, unique=(64, 640), gain=2, gain_by_index=-4, trend=1, trend_by_index=-2)
    # D is 0.1 and 1. The sources have index 0, 0.5 and 1, gains of 2, 0 and -2 points, and trends of 1, 0 and -1.
    assert world.accuracies(world.expected_trends) == pytest.approx(np.array([[71, 72], [70, 70], [69, 68]]))
    assert world.replicates == [(0, 0), (1, 1), (2, 2)]
    assert World(seeds=2, draws=2).replicates == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_right_answers_have_the_accuracy_of_their_run():
    world = World(methods=2, sources=2, unique=(64, 640), images=40_000, gain=10, trend=5, labelled_draws=2, labelled=1, run=3)
    (study,) = studies(world, 1)
    assert study.trained.shape == (2, 2, 2, 3, 2, 40_000)
    assert study.untrained.shape == (2, 10, 2, 40_000)
    shares = study.trained.mean(axis=-1)
    error = np.sqrt(0.25 / world.images)
    # Images are shared by all runs, so that their errors are common: all are within three standard errors in 997 of 1,000.
    assert np.abs(shares - study.run_accuracies / 100).max() < 3 * error
    assert np.ptp(study.run_accuracies) > 8


def test_mean_accuracy_is_that_of_the_kind_with_bad_runs_too():
    world = World(sources=2, unique=(64, 640), seeds=4, images=2, gain=3, bad=0.1, bad_loss=8, run=0.5)
    runs = np.stack([study.run_accuracies[0, ..., 0] for study in studies(world, 2000)])
    error = runs.mean(axis=-1).std(axis=0) / np.sqrt(len(runs))
    assert (np.abs(runs.mean(axis=(0, 3)) - 73) < 3.5 * error).all()
    assert np.mean(runs < 70) == pytest.approx(0.1, abs=0.01)


def test_each_component_has_its_variance():
    world = World(
        methods=2,
        sources=2,
        unique=(64, 640),
        seeds=2,
        draws=2,
        labelled_draws=2,
        images=1,
        seed=1,
        run=2,
        subset=3,
        labelled=1.5,
    )
    # Axes: study, method, source, level, replicate (draw 0 seed 0, draw 0 seed 1, draw 1 seed 0, ...), labelled draw.
    runs = np.stack([study.run_accuracies for study in studies(world, 6000)]) - world.untrained
    one = runs[:, 0, 0, 0, 0, 0]
    expected = {
        "itself": (one, 1 + 4 + 9 + 1.5**2),
        "another draw of labelled images": (runs[:, 0, 0, 0, 0, 1], 1 + 4 + 9),
        "same seed, other source": (runs[:, 0, 1, 0, 0, 1], 1),
        "same seed, other N": (runs[:, 0, 0, 1, 0, 1], 1),
        "same seed, other draw": (runs[:, 0, 0, 0, 2, 1], 1),
        "same subset, other seed": (runs[:, 0, 0, 0, 1, 1], 9),
        "same subset, other method": (runs[:, 1, 0, 0, 0, 1], 9),
        "same labelled images alone": (runs[:, 1, 1, 1, 3, 0], 1.5**2),
        "nothing in common": (runs[:, 1, 1, 1, 3, 1], 0),
    }
    for name, (other, variance) in expected.items():
        # The standard error of a covariance of two normal numbers of this variance is at most 16 sqrt(2 / n) = 0.3.
        assert np.mean(one * other) == pytest.approx(variance, abs=1.0), name


def test_scatter_of_trends_is_between_sources():
    world = World(sources=40, unique=(64, 640), images=1, trend=2, trend_by_index=-1, scatter=0.5)
    trends = np.stack([study.trends for study in studies(world, 100)])
    assert (trends - world.expected_trends).std() == pytest.approx(0.5, abs=0.03)
    (study,) = studies(world, 1)
    assert np.diff(study.accuracies, axis=1)[:, 0] == pytest.approx(study.trends)


def both_right(accuracies, correlation):
    """Share of images on which two runs are right whose latent values have this correlation."""
    covariance = [[1, correlation], [correlation, 1]]
    return stats.multivariate_normal.cdf(stats.norm.ppf(np.divide(accuracies, 100)), cov=covariance)


def test_runs_of_a_kind_vary_as_in_the_quickstart():
    kinds = np.stack([study.trained[0, ..., 0, :].mean(axis=-1) for study in studies(World(), 60)])
    assert 100 * np.sqrt(kinds.var(axis=-1, ddof=1).mean()) == pytest.approx(0.58, abs=0.03)


def test_images_are_shared_as_the_shares_say():
    world = World(
        sources=2, unique=(640,), seeds=2, images=200_000, difficulty=0.5, image_by_source=0.3, seed=0, run=0, subset=0
    )
    (study,) = studies(world, 1)
    (same, again), (other, _) = study.trained[0, :, 0, :, 0]
    untrained = study.untrained[0, 0, 0]
    error = 3 * 0.5 / np.sqrt(world.images)
    assert np.mean(same & again) == pytest.approx(both_right((70, 70), 0.8), abs=error)
    for apart in (other, untrained, study.pixels[0]):
        assert np.mean(same & apart) == pytest.approx(both_right((70, 70), 0.5), abs=error)
    assert np.mean(untrained & study.pixels[0]) == pytest.approx(both_right((70, 70), 0.5), abs=error)


def test_analysis_sees_every_run_in_its_place():
    world = World(methods=2, sources=2, unique=(64, 640), seeds=2, draws=2, images=300, labelled_draws=2)
    (study,) = studies(world, 1)
    opened = open_world(world)
    results = results_of(study, opened)
    for each in results.runs:
        run = each.run
        place = (int(run.method[-1]), int(run.source[-1]), world.unique.index(run.unique), 2 * run.draw + run.seed)
        assert each.evaluated.scores[opened.task.name].linear == study.trained[place].mean()
    learner = opened.learners[1].key
    grid = Analysis(results).task.linear.grid([kind for kind in Analysis(results).planned_kinds if kind.learner == learner])
    assert grid.values.mean() == pytest.approx(study.trained[1].mean())


def test_evaluations_share_images_and_runs_but_not_their_errors():
    world = World(sources=2, unique=(64, 640), seeds=2, images=40_000, evaluations=2, evaluation=2.0, run=1.0)
    (study,) = studies(world, 1)
    first, second = study.answers
    one = studies(dataclasses.replace(world, evaluations=1), 1)[0]
    # Another evaluation does not change the first.
    assert (first.trained == one.trained).all()
    shares = [each.trained.mean(axis=-1) for each in study.answers]
    assert np.std(shares[1] - shares[0]) == pytest.approx(0.02, abs=0.01)
    agreement = np.mean(first.pixels & second.pixels)
    assert agreement == pytest.approx(both_right((70, 70), 0.84), abs=3 * 0.5 / np.sqrt(world.images))
    results = results_of(study, open_world(world))
    assert results.runs[0].evaluated.evaluations(results.opened.task.name) == ["linear", "knn"]
    # The other one has gains and trends, and no exploratory tests.
    claims = Analysis(results).claims
    assert {name.family for name in claims if name.evaluation == "knn"} == {GAIN, TREND}


def test_reference_encoders_err_in_the_scale_of_the_index():
    world = World(sources=3, unique=(64, 640), images=1, encoders=2, encoder=0.2)
    index = np.stack([study.index_by_encoder for study in studies(world, 1000)])
    assert index.shape == (1000, 2, 3)
    assert index.mean(axis=(0, 1)) == pytest.approx([0, 0.5, 1], abs=0.02)
    assert index[..., 1] == pytest.approx(index[..., 2] / 2)
    assert index[..., 2].std() == pytest.approx(0.2, abs=0.015)
    assert np.corrcoef(index[:, 0, 2], index[:, 1, 2])[0, 1] == pytest.approx(0, abs=0.1)


def test_an_unfinished_study_lacks_its_last_runs():
    world = World(sources=2, unique=(64, 640), seeds=2, draws=2, images=50, finished=0.75)
    results = results_of(*studies(world, 1), open_world(world))
    assert [(each.run.draw, each.run.seed) for each in results.runs[::4]] == [(0, 0), (0, 1), (1, 0)]
    assert {(run.draw, run.seed) for run in results.missing} == {(1, 1)}
    assert len(results.runs) == 12


def test_a_null_world_has_no_effect_and_another_has():
    for name, world in SCENARIOS.items():
        flat = np.ptp([world.untrained, *world.accuracies(world.expected_trends).ravel()]) == 0 and world.scatter == 0
        assert flat == name.startswith("null"), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 0}, "Expected seeds of at least 1 in a world, got 0"),
        ({"finished": 1.2}, "Expected a share of finished runs above 0 and up to 1 in a world, got 1.2"),
        ({"unique": (640, 64)}, r"Expected ascending numbers .*got \(640, 64\)"),
        ({"difficulty": 0.97}, "difficulty=0.97 and image_by_source=0.04"),
        ({"gain": 28.0}, "between 0 and 100%, got means of 70 to 98"),
    ],
)
def test_a_world_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        World(**changes)


@pytest.mark.parametrize(
    ("sentence", "claims"),
    [
        ("Pretrain on a with 640 unique images: it reaches the highest accuracy, 71.0%, a gain of +1.0 ± 0.5 points.", True),
        ("a with 640 unique images: +1.0 ± 0.4 points compared with the untrained encoder (better).", True),
        ("each factor of ten changes the accuracy by +1.00 points (+0.5 to +1.5): more diversity is better.", True),
        ("this effect changes by -1 points: diversity helps less where the data is farther from the task", True),
        ("+0.50 points for each factor of ten in diversity (rises).", True),
        ("The best encoder (a) is worse than the baseline of raw pixels.", True),
        ("in exploratory comparisons, a is better than b, and no difference from c is shown (2.0 points would be).", True),
        ("no trend shown; 2.0 points would be, with 80% probability; but the relation is curved, and falls away", True),
        (
            "No gain from pretraining is shown for any number of unique images: a reaches the highest accuracy, 70.3%, +0.3 ± "
            "0.9 points over the untrained encoder (no difference shown; 2.0 points would be, with 80% probability); in "
            "exploratory comparisons, no difference from b and c is shown (2.0 points would be).",
            False,
        ),
        ("+1.0 ± 0.9 points compared with the untrained encoder (no difference shown, p = 0.03 uncorrected)", False),
        ("The best encoder (a) is not shown to be better than the baseline of raw pixels: +0.1 ± 0.9 points.", False),
        ("no trend shown; for these sources alone the interval is -1.00 to +1.00.", False),
        ("Collect a: pretraining on 640 of its images raises the accuracy by 1.0 ± 0.5 points", True),
        ("Do not collect a (-6.3 ± 1.1 points by kNN), which hurts.", True),
        (
            "By kNN, each factor of ten in diversity of a hurts by 1.0 ± 0.5 points; by the linear probe, no trend is shown",
            True,
        ),
        ("b is shown neither to help nor to hurt (2.0 points would be; a gain of 1.0 points takes 9 seeds).", False),
        ("Nothing can be decided yet: none of the 4 sources is shown to help or to hurt (2.0 points would be).", False),
        ("Nothing can be decided yet: a is shown to help or to hurt (2.0 points would be).", True),
    ],
)
def test_words_that_claim_something(sentence, claims):
    assert claims_something(sentence) == claims


def test_share_has_its_standard_error():
    found = Share.of([1.0, 0.5, 0.0, 0.5])
    assert found == (0.5, pytest.approx(np.std([1, 0.5, 0, 0.5], ddof=1) / 2), 4)
    # None of 96: as if 2 of 100.
    assert Share.of([0.0] * 96) == (0.0, pytest.approx(np.sqrt(0.02 * 0.98 / 100)), 96)


def test_studies_depend_on_seed_and_number_alone(monkeypatch):
    monkeypatch.setattr(measurement, "_AT_ONCE", 3)
    found = measure(SMALL, 4, seed=3)
    opened = open_world(SMALL)
    last = outcome(simulate(SMALL, np.random.default_rng([3, 3])), opened)
    but_one = measure(SMALL, 3, seed=3)
    for name, share in found.items():
        assert 4 * share.value == pytest.approx(3 * but_one[name].value + last[name])


@pytest.mark.slow
def test_processes_change_no_number():
    assert measure(SMALL, 51, workers=2) == measure(SMALL, 51)
    with pytest.raises(ValueError, match="at least 2 studies"):
        measure(SMALL, 1)


def test_intervals_cover_and_those_without_images_do_not(monkeypatch, few_resamples):
    # Images outweigh seeds here, so that an interval of seeds alone is far too narrow.
    world = dataclasses.replace(SMALL, run=0.3, subset=0.0, difficulty=0.8)
    found = measure(world, 60)
    for what in ("accuracy", "gain over untrained", "trend in diversity"):
        assert found["coverage", what].value > 0.95 - 3 * found["coverage", what].error, what
    assert found["sentences", "claim without a verdict"].value == 0

    real = estimation.candidate_variances
    monkeypatch.setattr(estimation, "candidate_variances", lambda images, components, count: real(0.0, components, count))
    wrong = measure(world, 60)
    assert wrong["coverage", "accuracy"].value < 0.85


def test_uncorrected_tables_are_found_out(monkeypatch, few_resamples):
    world = dataclasses.replace(SMALL, sources=4)
    found = measure(world, 60)
    monkeypatch.setattr("sslshift.transfer.claims.holm", lambda p_values, weights: np.asarray(p_values))
    wrong = measure(world, 30)
    # Exploratory tables are corrected one by one: each of them keeps to the bound that the other tests keep together.
    for what in ("whole report", PAIR, PIXELS):
        assert found["false claim", what].value < 0.1, what
    for what in ("whole report", "exploratory"):
        assert wrong["false claim", what].value >= 0.2, what


@pytest.mark.slow
def test_whole_reports_of_nothing_claim_something_in_one_case_of_twenty(few_resamples):
    world = dataclasses.replace(SMALL, methods=4, images=500)
    found = measure(world, 100)
    # Of 100 reports with a probability of 5%, ten or fewer make a false claim in 99 of 100 cases.
    assert found["false claim", "whole report"].value <= 0.1
    assert found["sentences", "claim without a verdict"].value == 0
    for what in ("accuracy", "gain over untrained", "trend in diversity", "pair of sources"):
        assert abs(found["coverage", what].value - 0.96) < 0.03, what


def test_effects_are_shown_and_count_as_no_false_claim():
    world = dataclasses.replace(SMALL, images=2000, gain=8.0, seeds=6, run=0.1, seed=0.1, subset=0.1)
    found = measure(world, 10)
    assert found["shown", "gain over untrained"].value > 0.9
    assert found["false claim", "gain over untrained"].value == 0
    assert ("shown", "trend in diversity") not in found


def test_benchmark_prints_a_line_for_each_share(monkeypatch):
    monkeypatch.setattr("tools.bench_statistics.SCENARIOS", {"small": SMALL})
    lines = []
    measure_statistics(lambda what, **figures: lines.append(figures), 2, 1, "small")
    assert {"world": "small", "measure": "coverage", "of": "accuracy", "studies": 2}.items() <= lines[0].items()
    assert {line["measure"] for line in lines} == {"coverage", "false claim", "sentences"}
    with pytest.raises(ValueError, match=r"expected one of all; shift index, kernel; .*; null, one method; .*, got 'large'"):
        measure_statistics(None, 2, 1, "large")
