"""Reads a provider's usage export (CSV or JSON) by a mapping of its fields, and the ledger's usage of that provider."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from routing.cost.reconcile import UsageBucket
from routing.records import Record, RequestRecord
from serving.errors import ConfigInvalid


class UsageFields(Record):
    """Which fields of an export mean what.

    Of `at` and `model` the first field that is there counts. Token fields are added up.
    A field of a nested object is named with dots: cache_creation.ephemeral_5m_input_tokens.
    """

    at: tuple[str, ...] = Field(min_length=1, description="ISO 8601, a date, or seconds since 1970")
    model: tuple[str, ...] = Field(min_length=1)
    requests: tuple[str, ...] = ()
    input_tokens: tuple[str, ...] = Field((), description="all of them, cached and written ones included")
    cached_tokens: tuple[str, ...] = ()
    output_tokens: tuple[str, ...] = ()
    cost_usd: tuple[str, ...] = ()


# Field names of the usage APIs and of the consoles' CSV files, read on 2026-11-22:
# platform.openai.com/docs/api-reference/usage and platform.claude.com/docs/en/api/admin/usage_report.
# OpenAI counts cached tokens inside input_tokens, Anthropic beside them.
KNOWN_FIELDS: Mapping[str, UsageFields] = {
    "openai": UsageFields(
        at=("start_time", "start_time_iso"),
        model=("model",),
        requests=("num_model_requests",),
        input_tokens=("input_tokens",),
        cached_tokens=("input_cached_tokens",),
        output_tokens=("output_tokens",),
        cost_usd=("amount.value", "amount_value"),
    ),
    "anthropic": UsageFields(
        at=("starting_at", "usage_date_utc"),
        model=("model", "model_version"),
        input_tokens=(
            "uncached_input_tokens",
            "cache_read_input_tokens",
            "cache_creation.ephemeral_5m_input_tokens",
            "cache_creation.ephemeral_1h_input_tokens",
            "usage_input_tokens_no_cache",
            "usage_input_tokens_cache_read",
            "usage_input_tokens_cache_write_5m",
            "usage_input_tokens_cache_write_1h",
        ),
        cached_tokens=("cache_read_input_tokens", "usage_input_tokens_cache_read"),
        output_tokens=("output_tokens", "usage_output_tokens"),
    ),
}


def fields_named(name: str) -> UsageFields:
    """A known mapping by name, or one from a YAML file. Raises ConfigInvalid."""
    if name in KNOWN_FIELDS:
        return KNOWN_FIELDS[name]
    try:
        return UsageFields.model_validate(yaml.safe_load(Path(name).read_text("utf-8")))
    except OSError as error:
        known = ", ".join(KNOWN_FIELDS)
        raise ConfigInvalid(f"no mapping {name!r}: name one of {known}, or a YAML file ({error.strerror})") from error
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{name} is no mapping of fields: {error}") from error


def read_export(path: Path, fields: UsageFields) -> Iterator[UsageBucket]:
    """The buckets of a file. A file that begins with { or [ is JSON or JSON lines. Any other is CSV with a header.

    Raises ConfigInvalid naming the row that cannot be read.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"cannot read the usage export {path}: {error}") from error
    rows: Iterable[Mapping[str, Any]]
    try:
        rows = (
            list(leaves(parse_json(text)))
            if text.lstrip()[:1] in ("{", "[")
            else list(csv.DictReader(text.splitlines()))
        )
    except ValueError as error:
        raise ConfigInvalid(f"{path} is neither JSON nor CSV: {error}") from error
    for number, row in enumerate(rows, start=1):
        try:
            yield bucket_of(row, fields)
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigInvalid(f"{path}, row {number}: {error}") from error


def parse_json(text: str) -> Any:
    """One document, or a list of lines that are one each. Raises ValueError."""
    try:
        return json.loads(text)
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def leaves(value: Any, above: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The innermost rows of nested lists, each with what its surroundings say (the time of its bucket)."""
    if isinstance(value, list):
        for item in value:
            yield from leaves(item, above)
    elif isinstance(value, dict):
        flat = dict(above or {}) | flatten(value)
        lists = [item for item in value.values() if isinstance(item, list) and any(isinstance(i, dict) for i in item)]
        empty = any(item == [] for item in value.values())
        if not lists and not empty:
            yield flat
        for item in lists:
            yield from leaves(item, flat)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Scalars of an object by dotted name."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat |= flatten(item, f"{prefix}{name}.")
        elif not isinstance(item, list):
            flat[prefix + name] = item
    return flat


def bucket_of(row: Mapping[str, Any], fields: UsageFields) -> UsageBucket:
    """One row of an export. Raises ValueError naming the field that is missing or makes no sense."""
    at, model = first(row, fields.at), first(row, fields.model)
    if at is None or model is None:
        missing = fields.at if at is None else fields.model
        raise ValueError(f"none of the fields {', '.join(missing)}; it has: {', '.join(map(str, row))}")
    cost_usd = added(row, fields.cost_usd)
    counts = {
        name: None if (value := added(row, getattr(fields, name))) is None else round(value)
        for name in ("requests", "input_tokens", "cached_tokens", "output_tokens")
    }
    return UsageBucket(day=day_of(at), model=str(model), cost_usd=cost_usd, **counts)


def first(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first of these fields that has a value."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def added(row: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    """The sum of these fields, None when the row has none of them."""
    found = [float(row[name]) for name in names if row.get(name) not in (None, "")]
    return sum(found) if found else None


def day_of(at: Any) -> str:
    """The UTC day of an instant. Raises ValueError."""
    if isinstance(at, int | float) or str(at).replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(at), UTC).date().isoformat()
    instant = datetime.fromisoformat(str(at))
    return (instant if instant.tzinfo is None else instant.astimezone(UTC)).date().isoformat()


def ledger_usage(records: Iterable[RequestRecord], provider: str) -> Iterator[UsageBucket]:
    """One bucket per attempt that a provider will bill, on the day it began."""
    for record in records:
        for attempt in record.attempts:
            if attempt.provider == provider and attempt.usage is not None:
                began = datetime.fromisoformat(record.at) + timedelta(seconds=attempt.started_s)
                yield UsageBucket(
                    day=began.astimezone(UTC).date().isoformat(),
                    model=attempt.model,
                    requests=1,
                    input_tokens=attempt.usage.input_tokens,
                    cached_tokens=attempt.usage.cached_tokens or 0,
                    output_tokens=attempt.usage.output_tokens,
                    cost_usd=attempt.cost_usd,
                )
