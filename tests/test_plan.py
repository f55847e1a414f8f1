"""Sample plan: permutations, exact counts, interleaving, substitutes and audits."""

import dataclasses
import statistics
import time
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslshift import Budget
from sslshift.data import Component, Mixture, SamplePlan, Stage
from sslshift.data.mixture import apportion, single, staircase
from sslshift.data.permutation import Order, permute, permute_each
from sslshift.data.plan import Seen, interleave


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 5))
def test_permutation_is_a_bijection(size, key, tweak):
    assert sorted(permute(np.arange(size), size, key, tweak=tweak).tolist()) == list(range(size))


def test_permutation_is_uniform_over_positions():
    # Each of 10 elements should be at each of 10 positions in a tenth of 5,000 orders (sd of a count: 21).
    counts = np.zeros((10, 10))
    for key in range(5000):
        counts[np.arange(10), permute(np.arange(10), 10, key)] += 1
    assert np.abs(counts - 500).max() < 5 * 21.2


def test_permutation_keys_and_tweaks_give_unrelated_orders():
    base = permute(np.arange(1000), 1000, 7)
    for other in (permute(np.arange(1000), 1000, 8), permute(np.arange(1000), 1000, 7, tweak=1)):
        assert (base == other).sum() < 10
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.15


def naive_permute(position, size, key, tweak):
    """The network, one value at a time in whole numbers of Python."""

    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    half = max(1, ((size - 1).bit_length() + 1) // 2)
    keys = [mix((int(k) + mix(tweak)) % 2**64) for k in np.random.SeedSequence(key).generate_state(6, np.uint64)]
    while True:
        left = position >> half
        right = position % 2**half
        for k in keys:
            left, right = right, left ^ mix((right + k) % 2**64) % 2**half
        position = (left << half) + right
        if position < size:
            return position


@given(st.lists(st.tuples(st.integers(1, 2**62), st.integers(0, 2**40)), min_size=1, max_size=4), st.data())
def test_permutation_is_that_of_whole_numbers_with_an_order_for_each_position(orders, data):
    which = data.draw(st.lists(st.integers(0, len(orders) - 1), min_size=1, max_size=20))
    positions = [data.draw(st.integers(0, orders[i][0] - 1)) for i in which]
    tweaks = data.draw(st.lists(st.integers(0, 2**40), min_size=len(which), max_size=len(which)))
    found = permute_each(np.array(positions), np.array(which), tuple(Order(n, (k,)) for n, k in orders), np.array(tweaks))
    expected = [naive_permute(p, *orders[i][:1], orders[i][1:], t) for p, i, t in zip(positions, which, tweaks, strict=True)]
    assert found.tolist() == expected


def test_permutation_of_more_than_a_block():
    order = permute(np.arange(30_000), 30_000, 5)
    assert sorted(order.tolist()) == list(range(30_000))
    assert permute(np.arange(20_000, 20_010), 30_000, 5).tolist() == order[20_000:20_010].tolist()


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


@given(st.integers(1, 10**5), st.data())
def test_staircase_follows_the_integral_of_the_shares_within_one_sample(total, data):
    count = data.draw(st.integers(1, 6))
    start, end = (data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count).filter(any)) for _ in range(2))
    steps = data.draw(st.integers(1, 40))
    had = np.array(staircase(total, start, end, steps))
    assert len(had) == min(steps, total)
    assert (np.diff(had, axis=0, prepend=0) >= 0).all()
    for step, row in enumerate(had.tolist(), 1):
        position = total * step // len(had)
        assert sum(row) == position
        for held, a, e in zip(row, start, end, strict=True):
            a = Fraction(a, sum(start))
            e = Fraction(e, sum(end))
            assert abs(held - (a * position + (e - a) * position**2 / (2 * total))) < 1


@st.composite
def plans(draw):
    samples = draw(st.integers(40, 700))
    stage_count = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(60, 300), min_size=3, max_size=3))
    stages = []
    for _ in range(stage_count):
        start = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
        end = draw(st.lists(st.integers(0, 5), min_size=len(start), max_size=len(start)).filter(any))
        ends = [(a / sum(start), e / sum(end)) for a, e in zip(start, end, strict=True)]
        if not draw(st.booleans()):
            ends = [(a, None) for a, _ in ends]
        parts = [Component("", 1, 1, *pair).mean_share for pair in ends]
        # Unique samples must fit into the smallest count that the shares can give.
        fits = min(60, max(1, int(samples / stage_count * min(parts)) - 2))
        stages.append(
            Stage(
                tuple(
                    Component(f"source{i}", size, draw(st.integers(1, fits)), *pair)
                    for i, (size, pair) in enumerate(zip(sizes, ends, strict=False))
                ),
                1 / stage_count,
            )
        )
    seeds = draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    return SamplePlan(Mixture(tuple(stages)), Budget(samples), draw(st.integers(1, 40)), *seeds)


@settings(max_examples=60, deadline=None)
@given(plans())
def test_audit_every_sample_is_seen_floor_or_ceil_of_its_fair_number_of_times(plan):
    audit = plan.audit()
    assert sum(seen.samples for seen in audit) == plan.budget.samples
    assert len(audit) == sum(len(stage.components) for stage in plan.mixture.stages)
    for seen in audit:
        component = next(c for c in plan.mixture.stages[seen.stage].components if c.source == seen.source)
        assert seen.unique == component.unique
        assert seen.fewest == seen.samples // seen.unique
        assert seen.most == -(-seen.samples // seen.unique)
        due = plan.budget.samples / len(plan.mixture.stages) * component.mean_share
        assert abs(seen.samples - due) < 2
        assert plan.agrees(seen)


@settings(max_examples=60, deadline=None)
@given(plans(), st.data())
def test_audit_of_a_stretch_agrees(plan, data):
    start = data.draw(st.integers(0, plan.budget.samples - 1))
    stop = data.draw(st.integers(start + 1, plan.budget.samples))
    audit = plan.audit(start, stop)
    assert sum(seen.samples for seen in audit) == stop - start
    assert all(plan.agrees(seen, start, stop) for seen in audit)


def test_audit_counts_what_rows_say_and_tells_what_differs():
    plan = SamplePlan(single("a", 100, 40), Budget(100), 10, 0, 0)
    (seen,) = plan.audit()
    assert seen == Seen(0, "a", 100, 40, 2, 3)
    for field, value in {"samples": 99, "unique": 39, "fewest": 1, "most": 4, "source": "b"}.items():
        assert not plan.agrees(seen._replace(**{field: value}))

    # The first image replaces the others: of 400 positions of 16 images, one image takes several epochs' worth.
    class Wrong(SamplePlan):
        def rows(self, start, stop):
            rows = super().rows(start, stop)
            return rows._replace(index=np.where(rows.index < 50, rows.index.min(), rows.index))

    wrong = Wrong(single("a", 100, 16), Budget(400), 10, 0, 0)
    assert not any(wrong.agrees(seen) for seen in wrong.audit())
    assert not any(wrong.agrees(seen, 100, 300) for seen in wrong.audit(100, 300))


def test_audit_counts_exactly_beyond_what_it_keeps_pending():
    # 3.1 million samples: numbers are merged several times on the way.
    plan = SamplePlan(single("a", 10**6, 10**6), Budget(3_100_000), 100, 0, 0)
    told = []
    assert plan.audit(on_progress=told.append) == [Seen(0, "a", 3_100_000, 10**6, 3, 4)]
    assert sum(told) == 3_100_000


def test_ramp_moves_shares_in_a_straight_line():
    components = Component("a", 9000, 4000, 1.0, 0.2), Component("b", 9000, 4000, 0.0, 0.8)
    plan = SamplePlan(Mixture((Stage(components),)), Budget(10_000), 100, 0, 0)
    source = plan.rows(0, 10_000).source.reshape(10, 1000)
    # In the k-th tenth b's share is on average 0.8 (k - 1/2) / 10.
    assert np.abs(source.sum(axis=1) - 80 * np.arange(0.5, 10)).max() <= 4
    assert plan.counts == ((6000, 4000),)
    assert [(seen.source, seen.samples, seen.unique, seen.fewest, seen.most) for seen in plan.audit()] == [
        ("a", 6000, 4000, 1, 2),
        ("b", 4000, 4000, 1, 1),
    ]


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
    near = Component("near", 50, 50)
    far = Component("far", 500, 100)
    plan = SamplePlan(Mixture((Stage((near,), 0.25), Stage((far,), 0.75))), Budget(1000), 100, 0, 0)
    source = plan.rows(0, 1000).source
    assert (source[:250] == 0).all()
    assert (source[250:] == 1).all()


def test_mixture_counts_nested_subsets_of_a_source_once():
    stages = tuple(Stage((Component("a", 100, unique),), 0.5) for unique in (10, 30))
    assert Mixture(stages).unique == 30


def test_plans_over_ten_billion_images_answer_at_once_from_little_memory():
    source = 10**10
    stages = (
        Stage((Component("a", source, source, 0.5), Component("b", source, 10**9, 0.5)), 0.3),
        Stage(
            (
                Component("a", source, source, 0.7, 0.2),
                Component("b", source, 10**9, 0.3, 0.5),
                Component("c", source, 10**9, 0.0, 0.3),
            ),
            0.4,
        ),
        Stage((Component("a", source, source, 0.8), Component("c", source, 10**9, 0.2)), 0.3),
    )
    tracemalloc.start()
    plan = SamplePlan(Mixture(stages), Budget(10 * source), 256, 0, 0)
    last = plan.batch(plan.budget.steps(256) - 1)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()
    assert last.index.max() < source
    assert np.abs(np.bincount(last.source) - [204.8, 0, 51.2]).max() < 2
    seconds = []
    for step in np.random.default_rng(0).integers(0, plan.budget.steps(256), 200).tolist():
        started = time.perf_counter()
        plan.batch(step)
        seconds.append(time.perf_counter() - started)
    # Half a millisecond on one core; ten times that, for machines that are busy.
    assert statistics.median(seconds) < 5e-3


@settings(max_examples=30, deadline=None)
@given(plans(), st.data())
def test_substitutes_are_the_other_images_of_the_subset_each_once(plan, data):
    position = data.draw(st.integers(0, plan.budget.samples - 1))
    source, index = (column[0] for column in plan.rows(position, position + 1))
    substitutes = list(plan.substitutes(position))
    assert len(set(substitutes)) == len(substitutes)
    # The subset, as far as this stage shows it.
    ends = np.cumsum([sum(counts) for counts in plan.counts])
    stage = int(np.searchsorted(ends, position, "right"))
    rows = plan.rows(int(ends[stage]) - sum(plan.counts[stage]), int(ends[stage]))
    assert {*substitutes, index} == set(rows.index[rows.source == source].tolist())


def test_an_image_has_the_same_substitutes_wherever_it_stands():
    parts = Component("a", 500, 30, 0.4, 0.6), Component("b", 500, 20, 0.6, 0.4)
    plan = SamplePlan(Mixture((Stage(parts),)), Budget(200), 10, 0, 0)
    found = {}
    for position, row in enumerate(zip(*plan.rows(0, 200), strict=True)):
        assert found.setdefault(row, list(plan.substitutes(position))) == list(plan.substitutes(position))
    assert len(found) == 50
    # First substitutes differ, so that no image replaces several.
    assert len({(row[0], substitutes[0]) for row, substitutes in found.items()}) == 50


def test_substitutes_of_a_huge_subset_come_at_once_and_of_a_single_image_not_at_all():
    plan = SamplePlan(single("a", 10**10, 10**10), Budget(10**10), 10, 0, 0)
    substitutes = plan.substitutes(12345)
    assert len({next(substitutes) for _ in range(100)} - set(plan.rows(12345, 12346).index.tolist())) == 100
    assert list(SamplePlan(single("a", 10, 1), Budget(100), 10, 0, 0).substitutes(7)) == []


def by_class(subset, labels, unique=60, **seeds):
    mixture = Mixture((Stage((Component("a", 300, unique, subset=subset),)),))
    known = {} if labels is None else {"a": labels}
    return SamplePlan(mixture, Budget(200), 10, **{"seed": 0, "subset_seed": 0} | seeds, labels=known)


def test_class_wise_subsets_are_seen_evenly_nested_and_seeded(random):
    labels = random.choice(4, 300, p=[0.6, 0.2, 0.15, 0.05])
    for subset in ("proportional", "balanced"):
        plan = by_class(subset, labels)
        (seen,) = plan.audit()
        assert plan.agrees(seen)
        seen = set(plan.rows(0, 200).index.tolist())
        counts = np.bincount(labels[list(seen)], minlength=4)
        expected = np.bincount(labels, minlength=4) / 5 if subset == "proportional" else np.array([15, 15, 15, 15])
        assert np.abs(counts - expected).max() < 1
        assert set(by_class(subset, labels, 20).rows(0, 200).index.tolist()) < seen
        assert {*plan.substitutes(3), *plan.rows(3, 4).index.tolist()} == seen
        assert set(by_class(subset, labels, seed=1).rows(0, 200).index.tolist()) == seen
        assert set(by_class(subset, labels, subset_seed=1).rows(0, 200).index.tolist()) != seen


def test_class_wise_and_ordinary_components_stand_side_by_side(random):
    labels = random.integers(0, 5, 200)
    parts = Component("a", 200, 50, 0.5, subset="balanced"), Component("b", 10**9, 50, 0.5)
    plan = SamplePlan(Mixture((Stage(parts),)), Budget(300), 10, 0, 0, {"a": labels})
    assert all(plan.agrees(seen) for seen in plan.audit())
    rows = plan.rows(0, 300)
    assert np.bincount(labels[np.unique(rows.index[rows.source == 0])]).tolist() == [10] * 5
    # The other component's images do not depend on its neighbour's labels.
    ordinary = SamplePlan(Mixture((Stage((Component("a", 200, 50, 0.5), parts[1])),)), Budget(300), 10, 0, 0).rows(0, 300)
    assert rows.index[rows.source == 1].tolist() == ordinary.index[ordinary.source == 1].tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Component("a", 10, 11), r"a: expected 1 to 10 unique samples, since the source has 10 images, got 11"),
        (lambda: Component("a", 10, 0), "expected 1 to 10 unique samples.*got 0"),
        (lambda: Component("a", 10, 5, -0.5), "expected a share above 0"),
        (lambda: Stage((Component("a", 10, 5, 0.5), Component("b", 10, 5, 0.4))), r"that sum to 1, got .* sum to 0.9"),
        (lambda: Stage((Component("a", 10, 5, 0.5), Component("a", 10, 5, 0.5))), "each source once"),
        (lambda: Stage(()), "one or more components"),
        (lambda: SamplePlan(single("a", 100, 100), Budget(99), 10, 0, 0), r"D would be above 1.*at most 99"),
        (lambda: SamplePlan(single("a", 100, 1), Budget(9), 10, 0, 0), "smaller than one batch"),
        (
            lambda: SamplePlan(
                Mixture((Stage((Component("a", 9, 1, 0.999), Component("b", 9, 1, 0.001))),)), Budget(100), 10, 0, 0
            ),
            r"b: 1 unique samples do not fit into its 0 samples .*raise the budget or its share\.$",
        ),
        (lambda: by_class("balanced", None), "a: a balanced subset needs labels, and this source has none"),
        (
            lambda: dataclasses.replace(by_class("balanced", np.arange(300)), labels={"a": np.arange(9)}),
            r"one whole number for",
        ),
        (lambda: permute(np.array([5]), 5, 0), r"positions in \[0, 5\), got 5"),
        (lambda: permute(np.array([3, -1]), 5, 0), r"positions in \[0, 5\), got -1"),
        (lambda: permute(np.array([0]), 2**62 + 1, 0), r"1 to 2\^62 elements"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_positions_outside_the_budget_are_refused():
    plan = SamplePlan(single("a", 10, 5), Budget(100), 10, 0, 0)
    with pytest.raises(IndexError, match="within the budget"):
        plan.rows(95, 101)
    with pytest.raises(IndexError, match="within the budget"):
        plan.substitutes(100)
