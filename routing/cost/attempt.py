"""What an attempt costs, and what it would have cost at the frontier, in dollars. An unknown price is None, never 0.

Our own engines are billed by the second of busy time, split fairly among the requests that shared it (SharedClock).
The frontier is billed by the token. Budgets ask for the most a call can cost before it is made.
"""

import re
from typing import Self

from pydantic import Field, model_validator

from routing.records import AttemptOutcome, Record, Tier, Usage

SELF_PROVIDER = "self"
NOT_BILLED = "not billed: failed before any token"

_PER_MILLION = 1e-6
_HOUR_S = 3600.0
_DATED = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|\d{4})")  # -20260131, -2026-01-31, -0131


class TokenPrice(Record):
    """Dollars per million tokens, with where and when they were read."""

    input_usd: float = Field(ge=0)
    output_usd: float = Field(ge=0)
    cached_input_usd: float | None = Field(None, ge=0, description="None: cached tokens cost the input price")
    cache_write_usd: float | None = Field(None, ge=0, description="None: writing costs the input price")
    source: str = Field(min_length=1, description="where the price was read")
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")

    @model_validator(mode="after")
    def _reading_the_cache_is_no_dearer_than_missing_it(self) -> Self:
        if self.cached_input_usd is not None and self.cached_input_usd > self.input_usd:
            raise ValueError(
                f"cached_input_usd {self.cached_input_usd} is above input_usd {self.input_usd}: are they swapped?"
            )
        return self

    def usd(self, usage: Usage) -> float:
        """Dollars for these tokens: each input token is billed once, as cached, written or plain input."""
        cached = usage.cached_tokens or 0
        written = usage.cache_write_tokens or 0
        plain = max(usage.input_tokens - cached - written, 0)
        cached_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        write_usd = self.input_usd if self.cache_write_usd is None else self.cache_write_usd
        return _PER_MILLION * (
            plain * self.input_usd + cached * cached_usd + written * write_usd + usage.output_tokens * self.output_usd
        )

    @property
    def cited(self) -> str:
        """Source and date in one string, as the ledger keeps it."""
        return f"{self.source} ({self.as_of})"


class CostConfig(Record):
    """Prices of everything a request can use.

    Keys of `frontier` are exact, with one exception. A request for `large` that is answered by its snapshot
    `large-2026-01-31` pays the price of `large`, unless the snapshot has a price of its own. A snapshot that was asked
    for by its own name needs its own entry, because snapshots of one name have had different prices.
    """

    frontier: dict[str, TokenPrice] = Field(default_factory=dict, description="by 'provider/model', exact")
    baseline: str | None = Field(None, description="key of `frontier` that the all-frontier counterfactual uses")
    engine_usd_per_hour: dict[Tier, float] = Field(
        default_factory=dict, description="what one replica of our own tier costs while busy, by tier"
    )
    engine_price_source: str = "unset"
    ceiling: TokenPrice | None = Field(None, description="budgets assume this when a price is unknown")

    @model_validator(mode="after")
    def _prices_make_sense(self) -> Self:
        if self.baseline is not None and self.baseline not in self.frontier:
            known = ", ".join(sorted(self.frontier)) or "none"
            raise ValueError(f"baseline {self.baseline!r} has no price in `frontier` (known: {known})")
        for tier, usd in self.engine_usd_per_hour.items():
            if not usd >= 0:
                raise ValueError(f"engine_usd_per_hour[{tier}] is {usd}: a price is 0 or more")
        return self


def attempt_cost(
    tier: Tier,
    provider: str,
    model: str,
    usage: Usage | None,
    engine_s: float | None,
    config: CostConfig,
    *,
    outcome: AttemptOutcome = AttemptOutcome.SERVED,
    asked_model: str | None = None,
) -> tuple[float | None, str | None]:
    """(dollars, source) of one attempt, thrown away or not.

    model: the one that answered, as the provider names it.
    asked_model: the name it was called by. None: the same.

    (x, source)     billed. Usage that was cut short is billed on what was seen (Usage.estimated says so)
    (0.0, source)   never got as far as a token: a provider's refusal, a full queue, a dead engine
    (None, source)  the price is known, what was used is not: an answer whose usage or engine time nobody reported
    (None, None)    the price itself is unknown: the ledger raises an alarm
    """
    if provider == SELF_PROVIDER:
        return _engine_cost(tier, usage, engine_s, config)
    if usage is None and outcome is AttemptOutcome.FAILED:
        return 0.0, NOT_BILLED
    price = config.frontier.get(f"{provider}/{model}")
    if price is None and asked_model is not None and _is_snapshot(model, asked_model):
        price = config.frontier.get(f"{provider}/{asked_model}")
    if price is None:
        return None, None
    return (None if usage is None else price.usd(usage)), price.cited


def _is_snapshot(model: str, asked_model: str) -> bool:
    """Whether a model's name is the one asked for plus a date. Providers answer an alias with what it stands for."""
    name = asked_model.removesuffix("-latest")
    return model.startswith(name) and _DATED.fullmatch(model[len(name) :]) is not None


def _engine_cost(
    tier: Tier, usage: Usage | None, engine_s: float | None, config: CostConfig
) -> tuple[float | None, str | None]:
    """Busy seconds at the hourly price. Tokens do not count: prefill, decode and cache hits take different times."""
    if engine_s is None and (usage is None or usage.input_tokens + usage.output_tokens == 0):
        return 0.0, NOT_BILLED
    usd_per_hour = config.engine_usd_per_hour.get(tier)
    if usd_per_hour is None:
        return None, None
    return (None if engine_s is None else engine_s / _HOUR_S * usd_per_hour), config.engine_price_source


def baseline_cost(usage: Usage | None, config: CostConfig, warm_tokens: int | None = None) -> float | None:
    """What the served answer's tokens would have cost had every request gone to the frontier. None when unknown.

    The imagined frontier has a warm prompt cache. Otherwise savings would count our own prefix cache twice.

    - Tokens that the serving engine or provider had cached count as cached at the frontier too. Our cache saw only a
      part of the traffic, so an all-frontier cache would have held at least this much.
    - warm_tokens: the most prompt tokens any attempt of this request found cached. After a rejected draft the real
      frontier is often colder than it would have been, because the earlier turns never went there.
    - Providers' minimum cacheable length and cache expiry are ignored. This makes the baseline cheaper and the
      reported savings smaller.

    Tokens are those of the serving model's tokenizer. Cached tokens that nobody reported count as uncached.
    """
    price = None if config.baseline is None else config.frontier.get(config.baseline)
    if usage is None or price is None:
        return None
    cached = usage.cached_tokens or 0
    warmed = max(min(warm_tokens or 0, usage.input_tokens) - cached, 0)
    return price.usd(
        usage.model_copy(
            update={
                "cached_tokens": cached + warmed,
                "cache_write_tokens": max(
                    (usage.cache_write_tokens or 0) - warmed, 0
                ),  # the prefix is written in order
            }
        )
    )
