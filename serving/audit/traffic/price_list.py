"""Token prices from the pinned genai-prices package. Entries of the profile and of the user take precedence.

The package is a dated snapshot, and the lock file has its version and hash. It has batch prices, long-prompt prices and
the names that providers use for their models. A copy of its thousands of rows here could come to differ from it. It is
read here and not in routing/, which stays free of I/O and of tables that change every week.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices
from pydantic import ValidationError

from routing.cost.attempt import TokenPrice
from serving.audit.traffic.prices import ModelPrices, PriceTable
from serving.errors import AuditError

BATCH = {"processing": "batch"}


class PriceList:
    """Finds prices: own entries first, then the list as of a given day."""

    def __init__(self, as_of: date, own: Mapping[str, TokenPrice] | None = None) -> None:
        """as_of: the day whose prices are wanted. own: by 'provider/model' or 'model'."""
        self.as_of = as_of
        self.source = f"genai-prices {version('genai-prices')}"
        models = {name: ModelPrices(standard=price) for name, price in (own or {}).items()}
        self._own = PriceTable(source="own", as_of=as_of.isoformat(), models=models)
        self._at = datetime(as_of.year, as_of.month, as_of.day, 12, tzinfo=UTC)
        self._snapshot = data_snapshot.get_snapshot()

    def find(self, provider: str | None, model: str) -> ModelPrices | None:
        """The prices of a model. None when neither list has it."""
        if (own := self._own.find(provider, model)) is not None:
            return own
        if provider is None and "/" in model:
            provider, _, model = model.partition("/")
        try:
            seller, found = self._snapshot.find_provider_model(model, None, provider, None)
        except LookupError:
            return None
        source = f"{self.source}: {seller.id}/{found.id}"
        standard = found.get_prices(self._at)
        batch = found.get_prices(self._at, BATCH) if found.price_variants else None
        if batch is not None and (batch.input_mtok, batch.output_mtok) == (standard.input_mtok, standard.output_mtok):
            batch = None
        after = _long_after(standard)
        base = self._price(standard, None, source)
        if base is None:
            return None
        return ModelPrices(
            standard=base,
            batch=batch and self._price(batch, None, source),
            long_context=after and self._price(standard, after, source),
            long_batch=self._price(batch, after, source) if batch and after else None,
            long_after_tokens=after,
        )

    def _price(self, prices: ModelPrice, long_after: int | None, source: str) -> TokenPrice | None:
        """One price list of per-million prices. None when it does not sell both input and output by the token."""
        input_usd, output_usd, read_usd, write_usd = (
            _at_length(getattr(prices, name), long_after)
            for name in ("input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok")
        )
        if input_usd is None or output_usd is None:
            return None
        return TokenPrice(
            input_usd=input_usd,
            output_usd=output_usd,
            cached_input_usd=None if read_usd is None else min(read_usd, input_usd),
            cache_write_usd=write_usd,
            source=source,
            as_of=self.as_of.isoformat(),
        )


def _at_length(price: Decimal | TieredPrices | None, long_after: int | None) -> float | None:
    if isinstance(price, TieredPrices):
        tiers = [tier.price for tier in price.tiers if long_after is not None and tier.start <= long_after]
        return float(tiers[-1] if tiers else price.base)
    return None if price is None else float(price)


def _long_after(prices: ModelPrice) -> int | None:
    """Where the first long price begins. Models with several steps (few) pay the first one for all longer prompts."""
    for name in ("input_mtok", "output_mtok"):
        price: Any = getattr(prices, name)
        if isinstance(price, TieredPrices) and price.tiers:
            return int(price.tiers[0].start)
    return None


def read_own_prices(path: Path) -> dict[str, TokenPrice]:
    """Prices of a YAML file: the same entries as a profile's cost.frontier. Raises AuditError naming the entry."""
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise AuditError(f"{path}: not YAML: {error}") from error
    if not isinstance(entries, Mapping):
        raise AuditError(f"{path}: expected a map of 'provider/model' to prices")
    try:
        return {str(name): TokenPrice.model_validate(entry) for name, entry in entries.items()}
    except ValidationError as error:
        raise AuditError(f"{path}: {error}") from error
