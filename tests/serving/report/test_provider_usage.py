"""Providers' exports as they come: their usage APIs' JSON, their consoles' CSV, and anything else by a mapping."""

import json
from pathlib import Path

import pytest

from routing.cost.reconcile import UsageBucket, reconcile
from serving.errors import ConfigInvalid
from serving.report.provider_usage import UsageFields, day_of, fields_named, ledger_usage, read_export
from serving.report.reconciliation import render
from tests.serving.ledger.examples import EXAMPLES

OPENAI_JSON = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": 1772323200,
            "end_time": 1772409600,
            "results": [
                {
                    "object": "organization.usage.completions.result",
                    "input_tokens": 171,
                    "output_tokens": 60,
                    "input_cached_tokens": 0,
                    "num_model_requests": 1,
                    "model": "large",
                    "project_id": None,
                }
            ],
        },
        {"object": "bucket", "start_time": 1772409600, "end_time": 1772496000, "results": []},
    ],
    "has_more": False,
}
OPENAI_CSV = """start_time,start_time_iso,num_model_requests,model,input_tokens,output_tokens,input_cached_tokens
1772323200,2026-03-01T00:00:00+00:00,1,large,171,60,0
"""
ANTHROPIC_JSON = {
    "data": [
        {
            "starting_at": "2026-03-01T00:00:00Z",
            "ending_at": "2026-03-02T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 100,
                    "cache_creation": {"ephemeral_1h_input_tokens": 20, "ephemeral_5m_input_tokens": 11},
                    "cache_read_input_tokens": 40,
                    "output_tokens": 60,
                    "model": "large",
                }
            ],
        }
    ]
}
ANTHROPIC_CSV = (
    "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
    "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens\n"
    "2026-03-01,large,100,11,20,40,60\n"
)


@pytest.mark.parametrize(
    ("name", "text", "cached", "requests"),
    [
        ("openai", json.dumps(OPENAI_JSON), 0, 1),
        ("openai", OPENAI_CSV, 0, 1),
        ("openai", "\ufeff" + OPENAI_CSV, 0, 1),
        ("anthropic", json.dumps(ANTHROPIC_JSON), 40, None),
        ("anthropic", ANTHROPIC_CSV, 40, None),
        ("anthropic", "\n".join(json.dumps(bucket) for bucket in ANTHROPIC_JSON["data"] * 1), 40, None),
    ],
    ids=["openai-api", "openai-console", "with-bom", "anthropic-api", "anthropic-console", "json-lines"],
)
def test_exports_of_the_providers_are_read(
    tmp_path: Path, name: str, text: str, cached: int, requests: int | None
) -> None:
    path = tmp_path / "usage"
    path.write_text(text, encoding="utf-8")
    (bucket,) = read_export(path, fields_named(name))
    assert bucket == UsageBucket(
        day="2026-03-01", model="large", requests=requests, input_tokens=171, cached_tokens=cached, output_tokens=60
    )


def test_ledgers_side_is_what_the_provider_will_bill(tmp_path: Path) -> None:
    """Our own engines are nobody's bill, nor is a try without tokens."""
    path = tmp_path / "usage.json"
    path.write_text(json.dumps(OPENAI_JSON), encoding="utf-8")
    found = reconcile(ledger_usage(EXAMPLES, "acme"), read_export(path, fields_named("openai")))
    assert found.agrees
    assert found.captured_ratio["input_tokens"] == 1
    (row,) = found.rows
    assert row.ledger is not None
    assert (row.ledger.requests, row.ledger.cost_usd) == (1, 0.0014)


def test_other_formats_are_read_by_a_mapping(tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{at: [when], model: [which], output_tokens: [out], cost_usd: [bill.usd]}")
    usage = tmp_path / "usage.json"
    usage.write_text('[{"when": "2026-03-01T23:30:00-01:00", "which": "x", "out": "7", "bill": {"usd": 0.25}}]')
    (bucket,) = read_export(usage, fields_named(str(mapping)))
    assert bucket == UsageBucket(day="2026-03-02", model="x", output_tokens=7, cost_usd=0.25)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,when\nlarge,2026-03-01\n", "row 1: none of the fields start_time, start_time_iso; it has: model, when"),
        ('{"start_time": "soon", "model": "x"}', "row 1"),
        ('{"start_time": 1, "model": "x", "input_tokens": "many"}', "row 1"),
        ('{"start_time": 1, "model": "x", "input_tokens": -5}', "row 1"),
        ("[{", "neither JSON nor CSV"),
    ],
)
def test_row_that_makes_no_sense_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "usage"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=says):
        list(read_export(path, fields_named("openai")))


def test_mapping_and_file_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="name one of openai, anthropic"):
        fields_named("gemini")
    with pytest.raises(ConfigInvalid, match="cannot read the usage export"):
        list(read_export(tmp_path / "none.csv", UsageFields(at=("a",), model=("b",))))


@pytest.mark.parametrize("at", [1772323200, "1772323200", "2026-03-01", "2026-03-01T00:00:00Z", 1772323200.5])
def test_days_are_utc(at: object) -> None:
    assert day_of(at) == "2026-03-01"


def test_table_tells_what_differs(tmp_path: Path) -> None:
    theirs = [UsageBucket(day="2026-03-01", model="large", input_tokens=342, output_tokens=60)]
    told = render(reconcile(ledger_usage(EXAMPLES, "acme"), theirs))
    assert "input_tokens 50.00%" in told
    assert "2026-03-01  large" in told
    assert "input_tokens 171 of 342" in told
