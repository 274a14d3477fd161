"""Compares a provider's bill with our ledger by day and model. Neither side is assumed to be right."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from routing.records import Record

USD_TOLERANCE = 1e-6  # providers' exports round


class UsageBucket(Record):
    """What one model used on one UTC day. None: that side does not say."""

    day: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    model: str
    requests: int | None = Field(None, ge=0)
    input_tokens: int | None = Field(None, ge=0, description="cached and written ones included")
    cached_tokens: int | None = Field(None, ge=0)
    output_tokens: int | None = Field(None, ge=0)
    cost_usd: float | None = None


MEASURES = ("requests", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")


class Standing(StrEnum):
    """How the two sides of one day and model compare."""

    EQUAL = "equal"
    DIFFERENT = "different"
    ONLY_LEDGER = "only_ledger"
    ONLY_PROVIDER = "only_provider"


class Comparison(Record):
    """One day and model on both sides."""

    day: str
    model: str
    standing: Standing
    ledger: UsageBucket | None
    provider: UsageBucket | None
    different: tuple[str, ...] = Field(description="measures that both sides give and that differ")


class Reconciliation(Record):
    """captured_ratio: share of the provider's count that the ledger has too, by measure. None: it counted none."""

    rows: tuple[Comparison, ...]
    captured_ratio: dict[str, float | None]

    @property
    def agrees(self) -> bool:
        """Whether every day and model is equal."""
        return all(row.standing is Standing.EQUAL for row in self.rows)


def add_up(buckets: Iterable[UsageBucket]) -> dict[tuple[str, str], UsageBucket]:
    """One bucket per day and model. A measure that is missing in one part is unknown for the whole."""
    sums: dict[tuple[str, str], UsageBucket] = {}
    for bucket in buckets:
        key = (bucket.day, bucket.model)
        known = sums.get(key)
        if known is not None:
            both = {name: (getattr(known, name), getattr(bucket, name)) for name in MEASURES}
            added = {name: None if None in pair else sum(pair) for name, pair in both.items()}
            bucket = known.model_copy(update=added)  # noqa: PLW2901
        sums[key] = bucket
    return sums


def reconcile(ledger: Iterable[UsageBucket], provider: Iterable[UsageBucket]) -> Reconciliation:
    """Compare both sides, ordered by day and model."""
    ours, theirs = add_up(ledger), add_up(provider)
    rows = tuple(_compare(key, ours.get(key), theirs.get(key)) for key in sorted(ours.keys() | theirs.keys()))
    return Reconciliation(rows=rows, captured_ratio={name: _captured(name, rows) for name in MEASURES})


def _compare(key: tuple[str, str], ours: UsageBucket | None, theirs: UsageBucket | None) -> Comparison:
    different = () if ours is None or theirs is None else tuple(n for n in MEASURES if _differ(n, ours, theirs))
    if ours is None:
        standing = Standing.ONLY_PROVIDER
    elif theirs is None:
        standing = Standing.ONLY_LEDGER
    else:
        standing = Standing.DIFFERENT if different else Standing.EQUAL
    return Comparison(day=key[0], model=key[1], standing=standing, ledger=ours, provider=theirs, different=different)


def _differ(name: str, ours: UsageBucket, theirs: UsageBucket) -> bool:
    one, other = getattr(ours, name), getattr(theirs, name)
    if one is None or other is None:
        return False
    return bool(abs(one - other) > (USD_TOLERANCE if name == "cost_usd" else 0))


def _captured(name: str, rows: Iterable[Comparison]) -> float | None:
    counted = captured = 0.0
    for row in rows:
        theirs = None if row.provider is None else getattr(row.provider, name)
        if theirs is None:
            continue
        counted += theirs
        captured += min(theirs, (None if row.ledger is None else getattr(row.ledger, name)) or 0)
    return captured / counted if counted else None
