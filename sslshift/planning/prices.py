"""Prices: what an image of each source and an hour of training cost.

The file of prices is TOML:

    currency = "EUR"

    [compute]
    per_hour = 2.50
    samples_per_second = 1_500

    [sources."inspection"]
    per_image = 0.40
    owned = 3_000        # images that are paid already; all that the pilots used if it is not given
    available = 20_000   # images that can be had in all; no limit if it is not given
    setup = 500          # paid once, with the first image that is bought
    max_share = 0.5      # largest share of the training budget
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_COMPUTE = ("per_hour", "samples_per_second")
_SOURCE = ("per_image", "owned", "available", "setup", "max_share")


@dataclasses.dataclass(frozen=True)
class SourcePrice:
    """Price of a source.

    Attributes:
      per_image: price of a further image.
      owned: images that are paid already.
      available: images that can be had in all, the owned ones among them; infinite without a limit.
      setup: price of the first image that is bought, beside that of the image.
      max_share: largest share of a training budget.
    """

    per_image: float
    owned: int = 0
    available: float = math.inf
    setup: float = 0.0
    max_share: float = 1.0

    def cost(self, images: int) -> float:
        """Returns the price of further images."""
        return self.setup + self.per_image * images if images else 0.0

    def affordable(self, money: float) -> int:
        """Returns the largest number of further images for an amount of money."""
        left = self.available - self.owned
        if money < self.setup or left <= 0:
            return 0
        bought = (money - self.setup) / self.per_image if self.per_image else math.inf
        most = min(left, bought)
        # Without a price and a limit, more images than any budget has samples are of no use.
        return int(min(most, 10**12))


@dataclasses.dataclass(frozen=True)
class Prices:
    """All prices.

    Attributes:
      currency: name of the currency.
      per_sample: price of a training sample.
      sources: price of each source by name.
    """

    currency: str
    per_sample: float
    sources: Mapping[str, SourcePrice]


def read_prices(
    path: Path, used: Mapping[str, int], samples_per_second: float | None = None, names: Mapping[str, str] | None = None
) -> Prices:
    """Reads a file of prices.

    Args:
      path: a TOML file.
      used: largest number of unique images that the pilots used of each source, by name; 0 for a source without pilots.
      samples_per_second: speed of the pilots, for a file that gives the price of an hour alone.
      names: name of each source by its URI; the file may have either.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not TOML, or its prices are missing, negative, unknown, or contradict each other.
    """
    if not path.exists():
        raise FileNotFoundError(f"--prices={path} does not exist. Expected a TOML file:\n{__doc__.split('TOML:')[1].rstrip()}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}.") from error
    _require_known(content, ("currency", "compute", "sources"), f"{path}")
    currency = content.get("currency", "")
    if not isinstance(currency, str):
        raise ValueError(f'{path}: expected a text such as "EUR" for currency, got {currency!r}.')
    compute = _table(content, "compute", f"{path}")
    given = _table(content, "sources", f"{path}")
    sources = {(names or {}).get(name, name): table for name, table in given.items()}
    if len(sources) < len(given):
        raise ValueError(f"{path} has two tables of one source, under its name and under its URI. Keep one of them.")
    if unknown := sorted(set(sources) - set(used)):
        raise ValueError(
            f"{path} names {', '.join(unknown)}, which the results do not have. Their sources are {', '.join(sorted(used))}."
        )
    if missing := sorted(set(used) - set(sources)):
        raise ValueError(
            f'{path} has no price of {", ".join(missing)}. Add a table [sources."{missing[0]}"] with per_image (0 if its '
            "images are free), or exclude the source with --ignore."
        )
    priced = {
        name: _source(_table(sources, name, f"{path}: sources"), used[name], f'{path}: [sources."{name}"]') for name in sources
    }
    if sum(price.max_share for price in priced.values()) < 1 - 1e-9:
        raise ValueError(f"{path}: the shares of max_share add up to less than 1, so that no training budget can be filled.")
    return Prices(currency, _per_sample(compute, samples_per_second, f"{path}: [compute]"), priced)


def _table(content: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{where}: expected a table for {name}, got {table!r}.")
    return table


def _per_sample(compute: Mapping[str, Any], measured: float | None, where: str) -> float:
    _require_known(compute, _COMPUTE, where)
    per_hour = _amount(compute, "per_hour", 0.0, where)
    speed = _amount(compute, "samples_per_second", measured or 0.0, where)
    if per_hour and not speed:
        raise ValueError(
            f"{where} has a price per hour and no samples_per_second, and the results do not say how fast the pilots were."
        )
    return per_hour / 3600 / speed if per_hour else 0.0


def _source(table: Mapping[str, Any], used: int, where: str) -> SourcePrice:
    _require_known(table, _SOURCE, where)
    if "per_image" not in table:
        raise ValueError(f"{where} has no per_image, the price of a further image; give 0 if its images are free.")
    owned = _amount(table, "owned", used, where)
    available = _amount(table, "available", math.inf, where)
    share = _amount(table, "max_share", 1.0, where)
    if available < owned:
        raise ValueError(f"{where}: {available:,.0f} images are available in all, but {owned:,.0f} are owned.")
    if owned < used:
        raise ValueError(f"{where}: {owned:,.0f} images are owned, but the pilots used {used:,}.")
    if share > 1:
        raise ValueError(f"{where}: expected a max_share between 0 and 1, got {share:g}.")
    return SourcePrice(
        _amount(table, "per_image", 0.0, where), int(owned), available, _amount(table, "setup", 0.0, where), share
    )


def _amount(table: Mapping[str, Any], name: str, default: float, where: str) -> float:
    value = table.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
        raise ValueError(f"{where}: expected a number of at least 0 for {name}, got {value!r}.")
    return value


def _require_known(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := sorted(set(table) - set(known)):
        raise ValueError(f"{where} has unknown entries: {', '.join(unknown)}. Known are {', '.join(known)}.")
