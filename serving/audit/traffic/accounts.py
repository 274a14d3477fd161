"""Tokens and dollars by model, tenant and category, summed as integers and priced once at the end.

A bill is linear in tokens, so the sums are priced at the end. The totals are exact, and a million requests need only
one small table.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serving.audit.formats.call import Call
from serving.audit.traffic.prices import ModelPrices

UNNAMED = None
OTHERS = "(others)"
MAX_NAMES = 10_000  # of tenants and of categories each. Further ones are added up under OTHERS
MAX_MODELS = 1_000

PriceOf = Callable[[str | None, str], ModelPrices | None]


@dataclass(frozen=True, slots=True)
class Key:
    """The key that calls are added up by. recorded: the log has their dollars. batch, long: which price they pay."""

    provider: str | None
    model: str
    tenant: str
    category: str | None
    batch: bool
    long: bool
    recorded: bool


@dataclass(slots=True)
class Sum:
    """Calls added up. usd None: unknown. warm_discount_usd: what cached reads cost less than the input price."""

    requests: int = 0
    calls: int = 0
    failed: int = 0
    estimated: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    unpriced_calls: int = 0
    usd: float | None = 0.0
    warm_discount_usd: float = 0.0

    def add(self, other: "Sum") -> None:
        """Add another one. Calls of unknown price add no dollars and are counted in unpriced_calls."""
        self.requests += other.requests
        self.calls += other.calls
        self.failed += other.failed
        self.estimated += other.estimated
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cached_tokens += other.cached_tokens
        self.cache_write_tokens += other.cache_write_tokens
        self.unpriced_calls += other.unpriced_calls
        self.warm_discount_usd += other.warm_discount_usd
        if other.usd is not None:
            self.usd = (self.usd or 0.0) + other.usd


@dataclass(slots=True)
class Accounts:
    """Adds calls up. price_of is called once per provider and model."""

    price_of: PriceOf
    cells: dict[tuple[object, ...], list[float]] = field(default_factory=dict)
    prices: dict[tuple[str | None, str], ModelPrices | None] = field(default_factory=dict)
    _tenants: set[str] = field(default_factory=set)
    _categories: set[str] = field(default_factory=set)

    def add(self, call: Call) -> None:
        """Add one call."""
        who = (call.provider, call.model)
        try:
            prices = self.prices[who]
        except KeyError:
            if len(self.prices) >= MAX_MODELS:
                who = (None, OTHERS)
                self.prices[who] = prices = None
            else:
                prices = self.prices[who] = self.price_of(*who)
        long = prices is not None and prices.long_after_tokens is not None and prices.is_long(call.input_tokens)
        recorded = call.unpriced or call.recorded_usd is not None
        key = (*who, call.tenant, call.category, call.batch, long, recorded)
        cell = self.cells.get(key)
        if cell is None:
            tenant = self._bounded(call.tenant, self._tenants)
            category = None if call.category is None else self._bounded(call.category, self._categories)
            cell = self.cells.setdefault((*who, tenant, category, call.batch, long, recorded), [0] * 10)
        cell[0] += call.is_request
        cell[1] += 1
        cell[2] += call.failed
        cell[3] += call.estimated
        cell[4] += call.input_tokens
        cell[5] += call.output_tokens
        cell[6] += call.cached_tokens
        cell[7] += call.cache_write_tokens
        if recorded:
            cell[8] += call.unpriced
            cell[9] += call.recorded_usd or 0.0

    def usd(self, call: Call) -> float | None:
        """Dollars of one call that was added. None when unknown."""
        if call.unpriced or call.recorded_usd is not None:
            return call.recorded_usd
        prices = self.prices.get((call.provider, call.model))
        price = prices and prices.price(batch=call.batch, long=prices.is_long(call.input_tokens))
        if not price:
            return None
        one = Sum(input_tokens=call.input_tokens, output_tokens=call.output_tokens)
        one.cached_tokens, one.cache_write_tokens = call.cached_tokens, call.cache_write_tokens
        return _bill(one, price.input_usd, price.output_usd, price.cached_input_usd, price.cache_write_usd)

    def rows(self) -> Iterable[tuple[Key, Sum]]:
        """Every cell with its dollars."""
        for key, cell in self.cells.items():
            named = Key(*key)  # type: ignore[arg-type]  # the tuple was made in this order
            n = [int(value) for value in cell[:9]]
            total = Sum(n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], usd=cell[9])
            if not named.recorded:
                prices = self.prices[named.provider, named.model]
                price = None if prices is None else prices.price(batch=named.batch, long=named.long)
                if price is None:
                    # A call that failed used nothing, whatever its model would have cost.
                    total.unpriced_calls = total.calls - total.failed
                    total.usd = None if total.unpriced_calls else 0.0
                else:
                    read_usd = price.input_usd if price.cached_input_usd is None else price.cached_input_usd
                    total.usd = _bill(
                        total, price.input_usd, price.output_usd, price.cached_input_usd, price.cache_write_usd
                    )
                    total.warm_discount_usd = 1e-6 * total.cached_tokens * (price.input_usd - read_usd)
            elif total.unpriced_calls == total.calls:
                total.usd = None
            yield named, total

    def by(self, name: Callable[[Key], object]) -> dict[object, Sum]:
        """The cells added up by a part of their key. A group without one known price has usd None."""
        groups: dict[object, Sum] = {}
        for key, total in self.rows():
            group = groups.setdefault(name(key), Sum(usd=None))
            group.add(total)
        return groups

    def _bounded(self, name: str, known: set[str]) -> str:
        if name not in known:
            if len(known) >= MAX_NAMES:
                return OTHERS
            known.add(name)
        return name


def _bill(total: Sum, input_usd: float, output_usd: float, cached_usd: float | None, write_usd: float | None) -> float:
    """routing.cost.attempt.TokenPrice.usd for sums of tokens."""
    plain = total.input_tokens - total.cached_tokens - total.cache_write_tokens
    return 1e-6 * (
        plain * input_usd
        + total.cached_tokens * (input_usd if cached_usd is None else cached_usd)
        + total.cache_write_tokens * (input_usd if write_usd is None else write_usd)
        + total.output_tokens * output_usd
    )
