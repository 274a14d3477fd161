"""What counts as a call in each format, and which rows are named as bad instead of vanishing."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from serving.audit.formats import ledger_export, openai_log
from serving.audit.formats.call import BadRow, BadRows, seconds
from serving.audit.formats.mapped_log import MappedReader, parse_mapping
from serving.errors import AuditError
from tests.serving.audit.audit_logs import chat, own_prices, report, write

LEDGER = Path(__file__).parents[3] / "serving" / "ledger" / "golden" / "export.jsonl"


def call_of(row: dict[str, Any]) -> Any:
    (call,) = openai_log.read_line(json.dumps(row).encode())
    return call


class TestUsage:
    @pytest.mark.parametrize(
        ("usage", "tokens"),
        [
            ({"prompt_tokens": 100, "completion_tokens": 20}, (100, 20, 0, 0)),
            (
                {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 64}},
                (100, 20, 64, 0),
            ),
            # The responses API.
            (
                {"input_tokens": 100, "output_tokens": 20, "input_tokens_details": {"cached_tokens": 64}},
                (100, 20, 64, 0),
            ),
            # Anthropic counts cached and written tokens beside the others, not among them.
            (
                {
                    "input_tokens": 10,
                    "output_tokens": 20,
                    "cache_read_input_tokens": 60,
                    "cache_creation_input_tokens": 30,
                },
                (100, 20, 60, 30),
            ),
        ],
    )
    def test_usage_of_three_apis_means_the_same_tokens(self, usage: dict[str, Any], tokens: tuple[int, ...]) -> None:
        call = call_of({"request": {"model": "m"}, "response": {"usage": usage}})
        assert (call.input_tokens, call.output_tokens, call.cached_tokens, call.cache_write_tokens) == tokens
        assert not call.estimated

    def test_absent_usage_is_estimated_and_marked(self) -> None:
        """Usage absent is an estimate that says so."""
        row = chat(user="x" * 400)
        row["response"] = {"model": "m", "choices": [{"message": {"content": "y" * 80}}]}
        call = call_of(row)
        assert call.estimated
        assert 100 <= call.input_tokens <= 115
        assert 20 <= call.output_tokens <= 35

    def test_failed_call_uses_nothing(self) -> None:
        assert call_of({"request": {"model": "m"}, "response": {"error": {"message": "overloaded"}}}).failed
        assert call_of(chat(status=503)).input_tokens == 0

    def test_batch_output_is_a_batch_call(self) -> None:
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        body = {"model": "gpt-5.4", "usage": usage, "created": 1_772_366_400}
        call = call_of({"custom_id": "a", "response": {"status_code": 200, "body": body}})
        assert call.batch
        assert (call.model, call.at_s, call.input_tokens) == ("gpt-5.4", 1_772_366_400, 100)

    def test_tier_that_is_not_in_the_price_table_is_unpriced_and_not_billed_as_standard(self) -> None:
        for tier, unpriced in (("default", False), ("flex", True), ("priority", True)):
            row = chat(model="gpt-5.4")
            row["response"]["service_tier"] = tier
            assert call_of(row).unpriced == unpriced


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("{not json", "(line)"),
        ('{"request": {"model": "m"}}', "response"),
        ('{"request": {}, "response": {"usage": {"prompt_tokens": 1}}}', "response.model"),
        ('{"request": {"model": "m"}, "response": {"usage": {"prompt_tokens": "12"}}}', "response.usage.prompt_tokens"),
        ('{"request": {"model": "m"}, "response": {"usage": {"prompt_tokens": -1}}}', "response.usage.prompt_tokens"),
        ('{"request": {"model": "m"}, "response": {"usage": {}}}', "response.usage"),
        ('{"request": {"model": "m"}, "response": {}}', "response.usage"),
        ('{"timestamp": "soon", "request": {"model": "m"}, "response": {"usage": {"prompt_tokens": 1}}}', "timestamp"),
    ],
)
def test_bad_row_is_counted_and_named_by_line_and_field(tmp_path: Path, row: str, field: str) -> None:
    named = tmp_path / "bad.jsonl"
    found = report(write(tmp_path / "log.jsonl", [chat(0), row, chat(1)]), "--bad-rows", named)
    assert found.totals.requests == 2
    assert found.bad_rows["count"] == 1
    (first,) = found.bad_rows["first"]
    assert (first["line"], first["field"]) == (2, field)
    assert [json.loads(line) for line in named.read_text().splitlines()] == [first]
    assert any("1 lines could not be read" in sentence for sentence in found.outlook.unknown)


def test_more_cached_than_input_tokens_is_a_bad_row() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 11}}
    with pytest.raises(BadRow, match="11 cached of 10"):
        call_of({"request": {"model": "m"}, "response": {"usage": usage}})


def test_a_million_odd_keys_do_not_grow_the_tally() -> None:
    bad = BadRows()
    for number in range(1000):
        bad.add(number, BadRow(f"field{number}", "odd"))
    assert bad.count == sum(bad.by_field.values()) == 1000
    assert len(bad.by_field) <= 21
    assert len(bad.examples) == 20


@pytest.mark.parametrize(
    "value", [1_772_366_400, 1_772_366_400_000, 1_772_366_400_000_000, "2026-03-01T12:00:00Z", "1772366400"]
)
def test_moments_in_seconds_milliseconds_microseconds_and_iso_are_one(value: float | str) -> None:
    assert seconds(value, "at") == pytest.approx(1_772_366_400)


@pytest.mark.parametrize("value", [0, -5, 1e30, "yesterday", "nan"])
def test_moment_outside_this_century_is_a_bad_row(value: float | str) -> None:
    with pytest.raises(BadRow):
        seconds(value, "at")


def test_ledger_export_books_every_attempt_and_counts_each_request_once() -> None:
    lines = LEDGER.read_bytes().splitlines()
    for line in lines:
        calls = ledger_export.read_line(line)
        row = json.loads(line)
        assert len(calls) == max(1, len(row["attempts"]))
        assert sum(call.is_request for call in calls) == 1
        costs = [attempt["cost_usd"] for attempt in row["attempts"]]
        assert [call.recorded_usd for call in calls if call.recorded_usd is not None] == [
            cost for cost in costs if cost is not None
        ] or not costs


def test_ledger_total_is_the_sum_of_its_attempts(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in LEDGER.read_text().splitlines()]
    found = report(LEDGER)
    booked = [a["cost_usd"] for row in rows for a in row["attempts"] if a["cost_usd"] is not None]
    assert found.format == "ledger"
    assert found.totals.requests == len(rows)
    assert found.totals.failed == sum(row["outcome"] != "ok" for row in rows)
    assert found.totals.usd == pytest.approx(sum(booked), abs=1e-12)


class TestMapping:
    def test_fields_are_found_by_dotted_path(self) -> None:
        reader = MappedReader(
            parse_mapping(["model=meta.engine", "input_tokens=usage.in", "output_tokens=usage.out", "at=when"]), None
        )
        row = {"meta": {"engine": "m"}, "usage": {"in": 7, "out": 3}, "when": "2026-03-01T12:00:00Z"}
        (call,) = reader(json.dumps(row).encode())
        assert (call.model, call.input_tokens, call.output_tokens, call.at_s) == ("m", 7, 3, 1_772_366_400)

    def test_each_assistant_turn_of_a_conversation_is_a_call_whose_prompt_continues_the_one_before(self) -> None:
        reader = MappedReader(parse_mapping(["messages=talk"]), "m")
        talk = [
            {"role": "user", "content": "a" * 40},
            {"role": "assistant", "content": "b" * 40},
            {"role": "user", "content": "c" * 40},
            {"role": "assistant", "content": "d" * 80},
        ]
        first, second = reader(json.dumps({"talk": talk}).encode())
        assert second.prompt.startswith(first.prompt)
        assert (first.output_tokens, second.output_tokens) == (10, 20)
        assert first.estimated
        assert second.estimated

    @pytest.mark.parametrize(
        ("row", "field"),
        [
            ({"in": "7", "out": 3}, "in"),
            ({"in": 7, "out": -3}, "out"),
            ({"in": 7}, "out"),
            ({"in": True, "out": 3}, "in"),
            ([], "in"),
        ],
    )
    def test_wrong_values_are_bad_rows_that_name_the_logs_own_field(self, row: Any, field: str) -> None:
        reader = MappedReader(parse_mapping(["input_tokens=in", "output_tokens=out"]), None)
        with pytest.raises(BadRow) as bad:
            reader(json.dumps(row).encode())
        assert bad.value.field == field

    @pytest.mark.parametrize("option", ["tokens=usage", "model", "model=", "model=meta"])
    def test_unusable_mapping_says_what_to_write(self, option: str) -> None:
        with pytest.raises(ValueError, match="--map"):
            parse_mapping([option])


class TestFiles:
    def test_gzipped_log_reads_the_same(self, tmp_path: Path) -> None:
        plain = write(tmp_path / "log.jsonl", [chat(n) for n in range(5)])
        packed = tmp_path / "log.jsonl.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        assert report(packed).totals == report(plain).totals

    def test_cut_gzip_file_is_an_error_and_not_a_smaller_log(self, tmp_path: Path) -> None:
        plain = write(tmp_path / "log.jsonl", [chat(n) for n in range(500)])
        packed = tmp_path / "log.jsonl.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes())[:-40])
        with pytest.raises(AuditError, match="gzip"):
            report(packed)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "no JSON object"),
            ("hello\nworld\n", "no JSON object"),
            ('{"a": 1, "b": 2}\n', "keys a, b"),
            ('{"request": 1}\n' * 3, "not one call"),
        ],
    )
    def test_wrong_file_says_what_is_expected(self, tmp_path: Path, content: str, message: str) -> None:
        log = tmp_path / "log.jsonl"
        log.write_text(content)
        with pytest.raises(AuditError, match=message):
            report(log)

    def test_missing_file_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(AuditError, match="No such file"):
            report(tmp_path / "none.jsonl")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--target", "1.5"], "--target"),
            (["--gpu-usd-per-hour", "-1"], "--gpu-usd-per-hour"),
            (["--format", "mapped"], "--map"),
            (["--format", "openai", "--map", "messages=m"], "leave --format"),
            (["--profile", "none.yaml"], "--profile names a YAML profile"),
            (["--artefact", "none"], "--artefact names the folder"),
        ],
    )
    def test_unusable_option_is_named(self, tmp_path: Path, options: list[str], message: str) -> None:
        with pytest.raises(AuditError, match=message):
            report(write(tmp_path / "log.jsonl", [chat()]), *options)


def test_price_file_prices_the_log(tmp_path: Path) -> None:
    cached = {"prompt_tokens_details": {"cached_tokens": 50}}
    log = write(tmp_path / "log.jsonl", [chat(0), chat(1, usage=cached)])
    found = report(log, "--prices", own_prices(tmp_path))
    # (100 + 50) × 3 + 50 × .3 + 2 × 20 × 15, in millionths
    assert found.totals.usd == pytest.approx((150 * 3 + 50 * 0.3 + 40 * 15) * 1e-6)
    assert found.totals.warm_discount_usd == pytest.approx(50 * 2.7e-6)


def test_unknown_model_has_no_dollars_and_is_named(tmp_path: Path) -> None:
    """A missing price is null and an alarm, never 0."""
    found = report(write(tmp_path / "log.jsonl", [chat(0, model="house-model"), chat(1, model="house-model")]))
    assert found.totals.usd is None
    assert found.outlook.now_usd is None
    assert all(scenario.total_usd is None for scenario in found.outlook.scenarios)
    assert found.prices[0].source is None
    assert any("price of 2 of 2 calls is unknown" in sentence for sentence in found.outlook.unknown)
