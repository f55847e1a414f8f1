import pytest
from hypothesis import given
from hypothesis import strategies as st

from sslshift import Budget


def test_paper_example():
    budget = Budget(50_000_000)
    assert budget.epochs(50_000) == 1000
    assert budget.diversity(50_000) == 0.001
    assert budget.steps(256) == 195_312


@given(st.integers(1, 10**12), st.data())
def test_epochs_times_diversity_is_one(samples, data):
    unique = data.draw(st.integers(1, samples))
    budget = Budget(samples)
    assert budget.epochs(unique) * budget.diversity(unique) == pytest.approx(1)
    assert 0 < budget.diversity(unique) <= 1


@given(st.integers(1, 10**6), st.integers(1, 10**4))
def test_whole_batches_never_exceed_the_budget(samples, batch_size):
    if batch_size > samples:
        with pytest.raises(ValueError, match="smaller than one batch"):
            Budget(samples).steps(batch_size)
        return
    whole = Budget(samples).whole_batches(batch_size)
    assert whole.samples % batch_size == 0
    assert samples - batch_size < whole.samples <= samples


@pytest.mark.parametrize("samples", [0, -1, 1.5])
def test_budget_must_be_a_positive_whole_number(samples):
    with pytest.raises(ValueError, match="positive whole number"):
        Budget(samples)


def test_more_unique_samples_than_seen_is_impossible():
    with pytest.raises(ValueError, match=r"Expected 1 to 100 unique samples, .* got 101"):
        Budget(100).diversity(101)
