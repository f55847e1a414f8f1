import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.mixture import apportion, single
from sslshift.data.permutation import permute
from sslshift.data.plan import interleave


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 5))
def test_permutation_is_a_bijection(size, key, tweak):
    assert sorted(permute(np.arange(size), size, key, tweak=tweak).tolist()) == list(range(size))


def test_permutation_is_uniform_over_positions():
    # Each of 10 elements should stand at each of 10 positions in a tenth of 5,000 orders (sd of a count: 21).
    counts = np.zeros((10, 10))
    for key in range(5000):
        counts[np.arange(10), permute(np.arange(10), 10, key)] += 1
    assert np.abs(counts - 500).max() < 5 * 21.2


def test_permutation_keys_and_tweaks_give_unrelated_orders():
    base = permute(np.arange(1000), 1000, 7)
    for other in (permute(np.arange(1000), 1000, 8), permute(np.arange(1000), 1000, 7, tweak=1)):
        assert (base == other).sum() < 10
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.15


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.data())
def test_interleave_is_exact_even_and_position_by_position_the_same(counts, data):
    total = sum(counts)
    which, rank = interleave(counts, 0, total)
    for component, count in enumerate(counts):
        assert rank[which == component].tolist() == list(range(count))
    # Evenness: after p positions no component is further than the number of components from its due.
    for component, count in enumerate(counts):
        held = np.cumsum(which == component)
        assert np.abs(held - np.arange(1, total + 1) * count / total).max() <= len(counts)
    start = data.draw(st.integers(0, total - 1))
    part = interleave(counts, start, total)
    assert part[0].tolist() == which[start:].tolist()
    assert part[1].tolist() == rank[start:].tolist()


@given(st.integers(1, 10**6), st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_apportioned_counts_are_exact(total, weights):
    shares = [weight / sum(weights) for weight in weights]
    counts = apportion(total, shares)
    assert sum(counts) == total
    assert all(abs(count - total * share) < 1 + 1e-6 for count, share in zip(counts, shares, strict=True))


@st.composite
def plans(draw):
    stages, samples = [], draw(st.integers(40, 700))
    stage_count = draw(st.integers(1, 3))
    for _ in range(stage_count):
        weights = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
        # Unique samples must fit into the smallest count that the shares can give.
        fits = max(1, int(samples / stage_count * min(weights) / sum(weights)) - 2)
        components = []
        for number, weight in enumerate(weights):
            unique = draw(st.integers(1, fits))
            components.append(Component(f"source{number}", unique + draw(st.integers(0, 50)), unique, weight / sum(weights)))
        stages.append(Stage(tuple(components), 1 / stage_count))
    seeds = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    return SamplePlan(Mixture(tuple(stages)), Budget(samples), draw(st.integers(1, 40)), *seeds)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_audit_every_sample_is_seen_floor_or_ceil_of_its_fair_number_of_times(plan):
    audit = plan.audit()
    assert sum(seen.samples for seen in audit) == plan.budget.samples
    for seen in audit:
        component = next(c for c in plan.mixture.stages[seen.stage].components if c.source == seen.source)
        assert seen.unique == component.unique
        assert seen.fewest >= seen.samples // seen.unique
        assert seen.most <= -(-seen.samples // seen.unique)


@settings(max_examples=30, deadline=None)
@given(plans(), st.data())
def test_position_is_step(plan, data):
    steps = -(-plan.budget.samples // plan.batch_size)
    stream = [np.concatenate(column) for column in zip(*(plan.batch(step) for step in range(steps)), strict=True)]
    whole = plan.rows(0, plan.budget.samples)
    for column, expected in zip(stream, whole, strict=True):
        assert column.tolist() == expected.tolist()
    start = data.draw(st.integers(0, plan.budget.samples - 1))
    assert plan.rows(start, start + 1).index[0] == whole.index[start]


def test_full_diversity_sees_every_image_once():
    plan = SamplePlan(single("a", 1000, 1000), Budget(1000), 64, seed=3, subset_seed=4)
    assert sorted(plan.rows(0, 1000).index.tolist()) == list(range(1000))


def test_one_unique_sample_is_seen_always():
    plan = SamplePlan(single("a", 1000, 1), Budget(777), 64, seed=3, subset_seed=4)
    assert len(set(plan.rows(0, 777).index.tolist())) == 1


def test_subsets_are_nested_whatever_the_budget_and_order():
    def seen(unique, samples, seed):
        plan = SamplePlan(single("a", 500, unique), Budget(samples), 10, seed=seed, subset_seed=9)
        indices = set(plan.rows(0, samples).index.tolist())
        assert len(indices) == unique
        return indices

    assert seen(20, 300, 0) < seen(100, 200, 1) < seen(400, 900, 2)


def test_subset_seed_draws_another_subset_and_seed_only_another_order():
    def index(seed, subset_seed):
        plan = SamplePlan(single("a", 10_000, 100), Budget(100), 10, seed=seed, subset_seed=subset_seed)
        return plan.rows(0, 100).index.tolist()

    assert sorted(index(0, 0)) == sorted(index(1, 0))
    assert index(0, 0) != index(1, 0)
    assert len(set(index(0, 0)) & set(index(0, 1))) < 10


def test_stages_follow_each_other():
    near, far = Component("near", 50, 50), Component("far", 500, 100)
    plan = SamplePlan(Mixture((Stage((near,), 0.25), Stage((far,), 0.75))), Budget(1000), 100, 0, 0)
    source = plan.rows(0, 1000).source
    assert (source[:250] == 0).all()
    assert (source[250:] == 1).all()


def test_mixture_counts_nested_subsets_of_a_source_once():
    stages = tuple(Stage((Component("a", 100, unique),), 0.5) for unique in (10, 30))
    assert Mixture(stages).unique == 30


def test_huge_plans_take_no_memory():
    source = 10**10
    mixture = Mixture(
        (
            Stage(
                (Component("a", source, source, 0.5), Component("b", source, 10**9, 0.5)),
            ),
        )
    )
    tracemalloc.start()
    plan = SamplePlan(mixture, Budget(4 * source), 256, 0, 0)
    rows = plan.batch(plan.budget.steps(256) - 1)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    assert rows.index.max() < source
    assert np.bincount(rows.source).tolist() == [128, 128]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Component("a", 10, 11), r"a: 11 unique samples asked for, but the source has 10"),
        (lambda: Component("a", 10, 0), "ask for 1 to 10"),
        (lambda: Component("a", 10, 5, -0.5), "share lies above 0"),
        (lambda: Stage((Component("a", 10, 5, 0.5), Component("b", 10, 5, 0.4))), r"sum to 0.9, not to 1"),
        (lambda: Stage((Component("a", 10, 5, 0.5), Component("a", 10, 5, 0.5))), "each source once"),
        (lambda: Stage(()), "missing"),
        (lambda: SamplePlan(single("a", 100, 100), Budget(99), 10, 0, 0), r"D would be above 1.*at most 99"),
        (lambda: SamplePlan(single("a", 100, 1), Budget(9), 10, 0, 0), "smaller than one batch"),
        (lambda: permute(np.array([5]), 5, 0), r"must lie in \[0, 5\)"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_positions_outside_the_budget_are_refused():
    plan = SamplePlan(single("a", 10, 5), Budget(100), 10, 0, 0)
    with pytest.raises(IndexError, match="within the budget"):
        plan.rows(95, 101)
