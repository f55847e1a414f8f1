"""Plans: what they cost, their caps, the best of them in worlds where it is known, and prices."""

import itertools
import math

import numpy as np
import pytest
from scipy.optimize import minimize

from sslshift.planning.averaging import forecast
from sslshift.planning.laws import Exposure, laws
from sslshift.planning.next_pilot import value_pilots
from sslshift.planning.pilots import PilotRun, SourcePlace, gather, read_pilots
from sslshift.planning.planner import consider, decide
from sslshift.planning.prices import Prices, SourcePrice, read_prices
from sslshift.planning.search import FURTHEST, PlanSearch, trainings

NAMES = ("near", "middle", "far")
SHIFT = np.array([0.05, 0.4, 0.9])
THETA = [0.12, 0.15, 0.4, math.log(12), 2.0, 0, 0, 0]


def pilots(noise=0.003, budgets=(10_000, 40_000), seed=0):
    cells = [(i, budget // epochs, budget) for i in range(3) for budget in budgets for epochs in (1, 4, 16, 64)]
    training = Exposure.of_single(*zip(*cells, strict=True))
    truth = 1 - laws(SHIFT, training)["discount"].error(np.array([THETA]), training)[0]
    random = np.random.default_rng(seed)
    runs = [
        PilotRun(NAMES[i], unique, budget, str(each), accuracy + noise * random.standard_normal(), 5000)
        for (i, unique, budget), accuracy in zip(cells, truth, strict=True)
        for each in range(3)
    ]
    return gather(
        runs, {name: SourcePlace(value, value - 0.03, value + 0.03) for name, value in zip(NAMES, SHIFT, strict=True)}
    )


@pytest.fixture(scope="module")
def fitted():
    return forecast(pilots())


def prices(per_sample=1e-4, **sources):
    every = {name: SourcePrice(0.01, 40_000) for name in NAMES}
    return Prices("EUR", per_sample, every | sources)


def test_every_plan_is_affordable_and_keeps_to_its_caps(fitted):
    given = prices(near=SourcePrice(0.2, 2000, 3000, setup=50), far=SourcePrice(0.001, 40_000, max_share=0.3))
    considered = consider(fitted, given, 100.0)
    assert len(considered.plans) > 100
    for plan in considered.plans[1:]:
        cost = plan.budget * given.per_sample + sum(given.sources[name].cost(images) for name, images in plan.buy.items())
        assert plan.cost == pytest.approx(cost)
        assert plan.cost <= 100 + 1e-6
        assert sum(plan.shares.values()) == pytest.approx(1)
        assert plan.shares.get("far", 0) <= 0.3 + 1e-9
        assert plan.unique.get("near", 0) <= 3000
        assert plan.budget <= FURTHEST * 40_000
        for name, share in plan.shares.items():
            assert plan.unique[name] <= given.sources[name].owned + plan.buy.get(name, 0)
            assert plan.unique[name] <= math.ceil(share * plan.budget)


def test_the_same_plan_is_chosen_twice_and_draws_pair_the_plans(fitted):
    first, second = (decide(fitted, prices(), 30.0) for _ in range(2))
    assert first == second
    considered = consider(fitted, prices(), 30.0)
    np.testing.assert_array_equal(
        considered.draws[:, 0], fitted.predict(trainings(considered.plans[:1], fitted.pilots.sources))[:, 0]
    )


def test_images_that_cost_nothing_but_are_far_are_not_bought_alone(fitted):
    given = prices(
        near=SourcePrice(0.02, 10_000, 1e6), far=SourcePrice(0.02, 40_000, 1e6), middle=SourcePrice(0.02, 40_000, 1e6)
    )
    chosen = decide(fitted, given, 1000.0).chosen.plan
    assert chosen.buy.get("near", 0) > chosen.buy.get("far", 0)


def test_without_images_to_buy_the_plan_trains_only(fitted):
    given = Prices("EUR", 1e-4, {name: SourcePrice(1.0, 40_000, 40_000) for name in NAMES})
    found = decide(fitted, given, 50.0)
    assert not found.chosen.plan.buy
    assert found.chosen.plan.budget > 40_000
    assert set(found.options) == {""}


def test_money_below_an_image_and_a_sample_buys_nothing(fitted):
    given = Prices("EUR", 1.0, {name: SourcePrice(5.0, 40_000) for name in NAMES})
    found = decide(fitted, given, 0.5)
    assert found.chosen == found.kept
    assert found.chosen.plan.cost == 0
    assert found.chosen.gain == 0


def test_a_target_takes_the_cheapest_plan_that_reaches_it(fitted):
    rich = decide(fitted, prices(), 60.0)
    target = rich.kept.value + 0.01
    found = decide(fitted, prices(), 60.0, target=target, level=0.8)
    assert found.chosen.reaches >= 0.8
    assert found.chosen.plan.cost < rich.chosen.plan.cost


def test_a_target_that_cannot_be_reached_with_the_money_takes_the_most_probable_plan(fitted):
    found = decide(fitted, prices(), 5.0, target=0.86)
    assert found.chosen.reaches < 0.9
    with pytest.raises(ValueError, match=r"target of 99.5% is above what the laws allow .*: 8\d\.\d%"):
        decide(fitted, prices(), 5.0, target=0.995)
    with pytest.raises(ValueError, match=r"got 86. Accuracies are shares: 90% is 0.9"):
        decide(fitted, prices(), 5.0, target=86)


def test_one_budget_plans_inside_its_range():
    found = decide(forecast(pilots(budgets=(40_000,))), prices(), 1000.0)
    assert found.chosen.plan.budget == 40_000
    assert all(found.chosen.plan.unique[name] <= 40_000 for name in found.chosen.plan.unique)
    assert found.ceiling is None


def test_plans_that_cannot_be_told_apart_are_named_the_cheapest_first(fitted):
    given = prices(near=SourcePrice(0.01, 10_000, 1e6), middle=SourcePrice(0.01, 10_000, 1e6))
    found = decide(fitted, given, 20.0)
    costs = [each.plan.cost for each in found.indistinguishable]
    assert costs == sorted(costs)
    assert found.chosen not in found.indistinguishable


def test_shares_by_worth_give_the_most_effective_data(fitted):
    search = PlanSearch(fitted, prices())
    owned = {"near": 3000, "middle": 8000, "far": 40_000}
    for budget in (2000, 20_000, 100_000, 600_000):
        shares = search._by_worth(NAMES, owned, budget)
        worth = np.array([search.worth[search.names.index(name)] for name in NAMES])
        images = np.array([owned[name] for name in NAMES], float)

        def effective(seen, worth=worth, images=images):
            epochs = np.maximum(seen / images, 1)
            used = np.minimum(seen, images)
            return (worth * used * (1 + search.repetition * -np.expm1(-(epochs - 1) / search.repetition))).sum()

        found = effective(budget * np.array([shares.get(name, 0) for name in NAMES]))
        starts = [np.eye(3)[i] * budget for i in range(3)] + [np.full(3, budget / 3)]
        best = max(
            -minimize(
                lambda seen: -effective(np.maximum(seen, 0)),
                start,
                bounds=[(0, budget)] * 3,
                constraints={"type": "eq", "fun": lambda seen, budget=budget: seen.sum() - budget},
            ).fun
            for start in starts
        )
        assert found >= 0.985 * best


def test_a_pilot_is_worth_more_the_more_its_outcome_can_change_the_plan(fitted):
    given = prices(near=SourcePrice(0.05, 10_000, 1e6))
    considered = consider(fitted, given, 60.0)
    found = value_pilots(fitted, given, considered, 60.0)
    assert found == value_pilots(fitted, given, considered, 60.0)
    assert all(left.value >= right.value for left, right in itertools.pairwise(found))
    assert all(pilot.cost <= 60 for pilot in found)
    assert not {(pilot.source, pilot.unique, pilot.budget) for pilot in found} & set(fitted.pilots.cells)
    # If all plans are equal, no outcome can change the plan.
    same = consider(fitted, given, 60.0)
    same.draws[:] = same.draws[:, :1]
    assert max(pilot.value for pilot in value_pilots(fitted, given, same, 60.0)) <= 1e-12


def test_a_pilot_that_takes_all_money_has_no_value(fitted):
    given = Prices("EUR", 1e-4, {name: SourcePrice(0.001, 40_000) for name in NAMES})
    money = 160_000 * 1e-4
    found = value_pilots(fitted, given, consider(fitted, given, money), money)
    dear = [pilot for pilot in found if pilot.cost >= money - 1e-9]
    assert dear
    assert max(pilot.value for pilot in dear) < 0


FILE = """
currency = "EUR"
[compute]
per_hour = 3.6
samples_per_second = 1000
[sources."near"]
per_image = 0.5
available = 4000
setup = 10
[sources."far"]
per_image = 0
"""
USED = {"near": 3000, "far": 100}


def read(tmp_path, text, **kwargs):
    file = tmp_path / "prices.toml"
    file.write_text(text)
    return read_prices(file, USED, **kwargs)


def test_prices_are_read(tmp_path):
    found = read(tmp_path, FILE)
    assert found.currency == "EUR"
    assert found.per_sample == pytest.approx(1e-6)
    near = found.sources["near"]
    assert near == SourcePrice(0.5, 3000, 4000, 10, 1.0)
    assert near.cost(0) == 0
    assert near.cost(2) == 11
    assert near.affordable(9.9) == 0
    assert near.affordable(12.4) == 4
    assert near.affordable(1e9) == 1000
    assert found.sources["far"].affordable(0) > 10**9


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("per_image = 0.5", "per_image = -1", r'\[sources."near"\]: expected a number of at least 0 for per_image, got -1'),
        ("per_image = 0.5", "", r'\[sources."near"\] has no per_image'),
        ("per_image = 0.5", 'per_image = "x"', "expected a number of at least 0 for per_image, got 'x'"),
        ("per_image = 0.5", "per_image = nan", "expected a number of at least 0 for per_image, got nan"),
        ("per_image = 0.5", "per_image = 0.5\nper_picture = 1", "unknown entries: per_picture"),
        ('"far"', '"fra"', "names fra, which the results do not have. Their sources are far, near"),
        ('[sources."far"]\nper_image = 0', "", r'no price of far. Add a table \[sources."far"\]'),
        ("available = 4000", "available = 2000", "2,000 images are available in all, but 3,000 are owned"),
        ("available = 4000", "owned = 10", "10 images are owned, but the pilots used 3,000"),
        ("setup = 10", "max_share = 1.5", "expected a max_share between 0 and 1, got 1.5"),
        ("samples_per_second = 1000", "", "no samples_per_second, and the results do not say"),
        ('currency = "EUR"', "currency = 3", "expected a text such as"),
        ("[compute]", "[compute", "is not a TOML file"),
    ],
)
def test_bad_prices_are_refused_in_one_sentence(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, FILE.replace(old, new))


def test_caps_that_no_budget_can_meet_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_share add up to less than 1"):
        read(
            tmp_path,
            FILE.replace("setup = 10", "max_share = 0.4").replace("per_image = 0\n", "per_image = 0\nmax_share = 0.3\n"),
        )


def test_the_speed_of_the_pilots_completes_the_price_of_an_hour(tmp_path):
    found = read(tmp_path, FILE.replace("samples_per_second = 1000", ""), samples_per_second=500.0)
    assert found.per_sample == pytest.approx(2e-6)


def test_missing_prices_show_what_a_file_looks_like(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"per_image = 0.40"):
        read_prices(tmp_path / "none.toml", USED)


HEAD = "source,unique,budget,seed,task,metric,test_images,linear,shift_index,method,encoder,kind,draw\n"


def table(tmp_path, *rows):
    file = tmp_path / "results.csv"
    file.write_text(HEAD + "\n".join(rows) + "\n")
    return read_pilots([file])


def row(seed, source="near", unique=10, linear="0.5", task="t", shift="0.1", method="simclr", draw=""):
    return f"{source},{unique},100,{seed},{task},accuracy,50,{linear},{shift},{method},mlp,run,{draw}"


def test_a_table_is_averaged_over_seeds(tmp_path):
    found = table(tmp_path, row(0), row(1, linear="0.6"), row(2, linear="0.7"), ",,,0,t,accuracy,50,0.4,,simclr,mlp,floor,")
    assert found.cells == (("near", 10, 100),)
    np.testing.assert_allclose(found.means, [0.6])
    assert found.facts == {"task": "t", "metric": "accuracy", "method": "simclr", "encoder": "mlp"}
    assert found.shift[0].value == 0.1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row(0), row(1), row(2, linear="50")],
            r"line 4: expected an accuracy between 0 and 1 in `linear`, got 50. It looks",
        ),
        ([row(0), row(1), row(2, linear="nan")], "line 4: expected a number in `linear`, got 'nan'"),
        ([row(0), row(0), row(1)], "Two rows have the same source near, N = 10, C = 100 and seed 0"),
        ([row(0), row(1), row(2, task="u")], "several values of task: t, u. Choose one with --task"),
        ([row(0), row(1), row(2, method="byol")], "several values of method: byol, simclr"),
        ([row(0), row(1), row(2, unique=200)], "200 unique images cannot be seen with a budget of 100 samples"),
        ([row(0), row(1), row(2, unique=1.5)], "expected a whole number of at least 1 in `unique`, got '1.5'"),
        ([row(0), row(1), row(2, shift="0.9")], "the shift index of near is 0.9 here and 0.1 in an earlier row"),
        ([row(0), row(1)], "3 seeds or more, got at most 2"),
        (["near,1"], "another number of columns"),
        ([], "Expected results of runs, found none"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, *rows)


def test_a_table_without_its_columns_and_a_folder_without_a_table(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="missing: source, unique, budget"):
        read_pilots([tmp_path / "other.csv"])
    with pytest.raises(FileNotFoundError, match=r"has no results.csv"):
        read_pilots([tmp_path])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_pilots([tmp_path / "none"])


def test_draws_of_a_seed_are_runs_of_their_own(tmp_path):
    found = table(tmp_path, row(0, draw=1), row(0, draw=2), row(0, draw=3))
    assert found.seeds.tolist() == [3]
