"""The audit's findings as one JSON document, the last line of output. table.py prints it and page.py draws it."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import Field

from routing.records import Record
from serving.audit.forecast.assumptions import Assumptions
from serving.audit.forecast.outlook import Outlook, total
from serving.audit.forecast.prediction import Prediction
from serving.audit.formats.call import BadRows
from serving.audit.traffic.accounts import Key, Sum
from serving.audit.traffic.survey import Survey

NOT_NAMED = "(not named)"
MAX_ROWS = 50  # of a table. The rest is added up in one row


class Row(Record):
    """Calls added up under one name. usd None: no price is known."""

    name: str
    requests: int
    calls: int
    failed: int
    estimated: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    unpriced_calls: int
    usd: float | None
    warm_discount_usd: float


class SampledCategory(Record):
    """Share of a kind of work among the requests that were sampled."""

    name: str
    requests_ratio: float
    usd_ratio: float | None = Field(description="share of the dollars. None: none is known")
    plus_minus: float = Field(
        description="95 % of samples give requests_ratio within this. 0: every request was in the sample"
    )


class CacheRow(Record):
    """What a prefix cache of that size would have held. capacity_tokens None: unbounded."""

    capacity_tokens: int | None
    hit_ratio: float


class TenantReuse(Record):
    """Reuse of one tenant in the first cache."""

    tenant: str
    input_tokens: int
    hit_ratio: float


class PriceRow(Record):
    """Which price a model was billed at."""

    model: str
    source: str | None = Field(description="None: unknown")
    input_usd: float | None
    output_usd: float | None


class Speed(Record):
    """Seconds of one core, and the most memory the process ever held."""

    accounting_s: float
    sampling_s: float
    reuse_s: float
    accounting_requests_per_s: float | None
    requests_per_s: float | None = Field(description="of the whole pass")
    peak_memory_bytes: int


class Report(Record):
    """Everything."""

    log: str
    format: str
    bad_rows: dict[str, Any]
    totals: Row
    span_hours: float | None
    requests_per_s: float | None
    peak_requests_per_s: float | None = Field(description="of the busiest window")
    window_s: float
    arrivals: tuple[tuple[float, int], ...] = Field(description="(seconds since the start, requests) per window")
    models: tuple[Row, ...]
    tenants: tuple[Row, ...]
    categories: tuple[Row, ...] = Field(description="as the log names them")
    sampled_categories: tuple[SampledCategory, ...]
    sample_size: int
    prices: tuple[PriceRow, ...]
    measured_cached_ratio: float | None = Field(description="input tokens that the provider says it had cached")
    caches: tuple[CacheRow, ...]
    tenant_reuse: tuple[TenantReuse, ...]
    assumptions: Assumptions
    outlook: Outlook
    prediction: Prediction | None
    speed: Speed


def make_report(
    log: str,
    form: str,
    survey: Survey,
    bad: BadRows,
    assumed: Assumptions,
    outlook: Outlook,
    prediction: Prediction | None,
    peak_memory_bytes: int,
) -> Report:
    """Everything that was found."""
    everything = total(survey.accounts.by(lambda _: None).values())
    span_s = survey.arrivals.span_s
    numbers, windows = survey.arrivals.table()
    width_s = survey.arrivals.width_s
    sampled, size = sampled_categories(survey)
    return Report(
        log=log,
        format=form,
        bad_rows=bad.summary(),
        totals=_row("all", everything),
        span_hours=None if span_s is None else span_s / 3600,
        requests_per_s=None if span_s is None else float(windows[:, 0].sum()) / span_s,
        peak_requests_per_s=None if span_s is None else float(windows[:, 0].max()) / width_s,
        window_s=width_s,
        arrivals=tuple(
            ((number - int(numbers[0])) * width_s, int(count))
            for number, count in zip(numbers.tolist(), windows[:, 0].tolist(), strict=True)
        ),
        models=_rows(survey, lambda key: _model_name(key.provider, key.model) + (" (batch)" if key.batch else "")),
        tenants=_rows(survey, lambda key: key.tenant),
        categories=_rows(survey, lambda key: key.category or NOT_NAMED),
        sampled_categories=sampled,
        sample_size=size,
        prices=_prices(survey),
        measured_cached_ratio=everything.cached_tokens / everything.input_tokens
        if everything.cached_tokens and everything.input_tokens
        else None,
        caches=_caches(survey),
        tenant_reuse=_tenants(survey),
        assumptions=assumed,
        outlook=outlook,
        prediction=prediction,
        speed=_speed(survey, peak_memory_bytes),
    )


def _model_name(provider: str | None, model: str) -> str:
    return model if provider is None else f"{provider}/{model}"


def _row(name: str, cell: Sum) -> Row:
    return Row(name=name, **asdict(cell))


def _rows(survey: Survey, name: Callable[[Key], str]) -> tuple[Row, ...]:
    """The most expensive first, then the longest. What does not fit is added up."""
    groups = survey.accounts.by(name)
    ordered = sorted(groups.items(), key=lambda item: (-(item[1].usd or 0.0), -item[1].input_tokens, str(item[0])))
    rows = [_row(str(label), cell) for label, cell in ordered[:MAX_ROWS]]
    if rest := ordered[MAX_ROWS:]:
        rows.append(_row(f"({len(rest)} more)", total(cell for _, cell in rest)))
    return tuple(rows)


def sampled_categories(survey: Survey) -> tuple[tuple[SampledCategory, ...], int]:
    """(kinds of work in the sample, its size). Empty when the log names them all, or no request tells its kind."""
    if all(key.category is not None for key, _ in survey.accounts.rows()):
        return (), 0
    kept = [each for each in survey.sample.kept if each.category is not None]
    if not kept:
        return (), 0
    counts: dict[str, int] = {}
    dollars: dict[str, float] = {}
    for each in kept:
        name = each.category or ""
        counts[name] = counts.get(name, 0) + 1
        dollars[name] = dollars.get(name, 0.0) + (each.usd or 0.0)
    spent, whole = sum(dollars.values()), survey.sample.seen <= len(survey.sample.kept)
    rows = [
        SampledCategory(
            name=name,
            requests_ratio=count / len(kept),
            usd_ratio=dollars[name] / spent if spent > 0 else None,
            plus_minus=0.0 if whole else 1.96 * (count / len(kept) * (1 - count / len(kept)) / len(kept)) ** 0.5,
        )
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return tuple(rows), len(kept)


def _prices(survey: Survey) -> tuple[PriceRow, ...]:
    rows = []
    recorded = {(key.provider, key.model) for key, _ in survey.accounts.rows() if key.recorded}
    for (provider, model), prices in survey.accounts.prices.items():
        if (provider, model) in recorded:
            continue
        price = prices.standard if prices else None
        rows.append(
            PriceRow(
                model=_model_name(provider, model),
                source=price.cited if price else None,
                input_usd=price.input_usd if price else None,
                output_usd=price.output_usd if price else None,
            )
        )
    return tuple(sorted(rows, key=lambda row: row.model)[:MAX_ROWS])


def _caches(survey: Survey) -> tuple[CacheRow, ...]:
    reuse = survey.reuse
    if reuse is None or not reuse.input_tokens:
        return ()
    rows = [
        CacheRow(capacity_tokens=cache.capacity_tokens, hit_ratio=reuse.hit_ratio(place) or 0.0)
        for place, cache in enumerate(reuse.caches)
    ]
    return (*rows, CacheRow(capacity_tokens=None, hit_ratio=reuse.unbounded_hit_ratio() or 0.0))


def _tenants(survey: Survey) -> tuple[TenantReuse, ...]:
    if survey.reuse is None:
        return ()
    largest = sorted(survey.reuse.tenants.items(), key=lambda item: -item[1][0])[:MAX_ROWS]
    return tuple(
        TenantReuse(tenant=name, input_tokens=int(tokens), hit_ratio=hits / tokens if tokens else 0.0)
        for name, (tokens, hits) in largest
    )


def _speed(survey: Survey, peak_memory_bytes: int) -> Speed:
    whole_s = survey.accounting_s + survey.sampling_s + survey.reuse_s
    return Speed(
        accounting_s=survey.accounting_s,
        sampling_s=survey.sampling_s,
        reuse_s=survey.reuse_s,
        accounting_requests_per_s=survey.requests / survey.accounting_s if survey.accounting_s > 0 else None,
        requests_per_s=survey.requests / whole_s if whole_s > 0 else None,
        peak_memory_bytes=peak_memory_bytes,
    )
