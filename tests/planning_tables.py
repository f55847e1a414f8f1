"""Tables of pilots whose truth is known, and files of prices, for tests of plans."""

import numpy as np

from sslshift.planning import PlanSettings, run_plan
from sslshift.reporting import csv_text

HEAD = (
    "kind",
    "method",
    "encoder",
    "source",
    "unique",
    "budget",
    "seed",
    "draw",
    "task",
    "metric",
    "test_images",
    "linear",
    "shift_index",
    "shift_low",
    "shift_high",
)
SHIFT = {"near": 0.05, "web": 0.4, "far": 0.9}
BUDGETS = (10_000, 40_000)
PRICES = """
currency = "EUR"

[compute]
per_hour = 2.5
samples_per_second = 1_500

[sources."near"]
per_image = 0.2
owned = 20_000
available = 60_000

[sources."web"]
per_image = 0.01
owned = 20_000

[sources."far"]
per_image = 0.001
owned = 40_000
"""


def truth(source: str, unique: int, budget: int) -> float:
    """Returns the accuracy without noise: repetition loses value with a constant of 15, and shift divides the images."""
    epochs = budget / unique
    data = unique * (1 + 15 * (1 - np.exp(-(epochs - 1) / 15))) * np.exp(-1.8 * SHIFT[source])
    return float(1 - (0.12 + 0.2 * (data / 5000) ** -0.4))


def rows(sources=tuple(SHIFT), budgets=BUDGETS, epochs=(2, 16, 64), seeds=3, noise=0.004, **constant) -> list[dict]:
    """Returns rows of a table of results, with noise of seeds and runs; `constant` replaces columns."""
    random = np.random.default_rng(0)
    effects = random.normal(0, noise / 2, seeds)
    found = []
    for source in sources:
        for budget in budgets:
            for each in epochs:
                for seed in range(seeds):
                    accuracy = truth(source, budget // each, budget) + effects[seed] + random.normal(0, noise)
                    found.append(
                        {
                            "kind": "run",
                            "method": "simclr",
                            "encoder": "patch_mlp",
                            "source": source,
                            "unique": budget // each,
                            "budget": budget,
                            "seed": seed,
                            "draw": seed,
                            "task": "parts",
                            "metric": "accuracy",
                            "test_images": 5000,
                            "linear": round(accuracy, 4),
                            "shift_index": SHIFT[source],
                            "shift_low": SHIFT[source] - 0.03,
                            "shift_high": SHIFT[source] + 0.03,
                        }
                        | constant
                    )
    return found


def write_table(path, found: list[dict]):
    """Writes rows as a CSV file, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(csv_text(HEAD, [[row.get(name, "") for name in HEAD] for row in found]))
    return path


def plan_from(folder, found, prices=PRICES, money=1000.0, **settings):
    """Returns the report of a plan from a table of rows, with prices as text."""
    write_table(folder / "study" / "results.csv", found)
    (folder / "prices.toml").write_text(prices)
    chosen = {"out": str(folder / "plan")} | settings
    return run_plan(PlanSettings([str(folder / "study")], str(folder / "prices.toml"), money, **chosen))


def written_plan(folder):
    """Returns a report on three sources with a target, which is written to its folder, and the folder."""
    report = plan_from(folder, rows(), target=0.8)
    report.write()
    return report, folder


def one_source():
    return '[sources."near"]\nper_image = 0.2\n'


def two_sources():
    return PRICES.partition('[sources."far"]')[0]
