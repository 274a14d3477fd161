"""The audit's sums equal an independent computation of the same log in DuckDB."""

import json
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from routing.cost.attempt import TokenPrice
from serving.audit.example_log import lines
from serving.audit.formats.call import Call
from serving.audit.report import Report, Row
from serving.audit.traffic.accounts import MAX_NAMES, OTHERS, Accounts
from serving.audit.traffic.arrivals import MAX_WINDOWS, Arrivals
from serving.audit.traffic.prices import ModelPrices
from tests.serving.audit.audit_logs import chat, own_prices, report, write

N_REQUESTS = 5_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_bytes(b"".join(lines(N_REQUESTS, days=2.0, seed=11)))
    return path


@pytest.fixture(scope="module")
def found(log: Path) -> Report:
    return report(log)


@pytest.fixture(scope="module")
def books(log: Path, found: Report) -> Iterator[duckdb.DuckDBPyConnection]:
    """The log as a table of calls with their dollars, made by SQL alone."""
    books = duckdb.connect()
    books.execute("CREATE TABLE price (model TEXT, input_usd DOUBLE, output_usd DOUBLE, cached_usd DOUBLE)")
    listed = {"gpt-5.4": 0.25, "gpt-5.4-mini": 0.075, "claude-sonnet-4-5": 0.3}  # cached, $ per million
    for row in found.prices:
        if row.source is not None:
            books.execute(
                "INSERT INTO price VALUES (?, ?, ?, ?)", [row.model, row.input_usd, row.output_usd, listed[row.model]]
            )
    books.execute(
        """
        CREATE TABLE call AS
        WITH logged AS (
            SELECT to_timestamp(timestamp) AS at, timestamp AS at_s, tenant, category, request->>'model' AS model,
                coalesce((response->'usage'->>'prompt_tokens')::BIGINT, 0) AS input_tokens,
                coalesce((response->'usage'->>'completion_tokens')::BIGINT, 0) AS output_tokens,
                coalesce((response->'usage'->'prompt_tokens_details'->>'cached_tokens')::BIGINT, 0) AS cached_tokens,
                (response->'error') IS NOT NULL AS failed
            FROM read_json(?, format = 'newline_delimited',
                columns = {timestamp: 'DOUBLE', tenant: 'TEXT', category: 'TEXT', request: 'JSON', response: 'JSON'})
        )
        SELECT logged.*, ((input_tokens - cached_tokens) * input_usd + cached_tokens * cached_usd
            + output_tokens * output_usd) / 1e6 AS usd
        FROM logged LEFT JOIN price USING (model)
        """,
        [str(log)],
    )
    yield books
    books.close()


@pytest.mark.parametrize("group", ["model", "tenant", "category"])
def test_tokens_and_dollars_of_every_group_are_those_of_duckdb(
    found: Report, books: duckdb.DuckDBPyConnection, group: str
) -> None:
    rows: tuple[Row, ...] = {"model": found.models, "tenant": found.tenants, "category": found.categories}[group]
    expected = books.execute(
        f"""SELECT {group}, count(*), sum(failed::INT), sum(input_tokens), sum(output_tokens), sum(cached_tokens),
            count(*) FILTER (usd IS NULL AND NOT failed), sum(usd) FROM call GROUP BY 1"""
    ).fetchall()
    assert {
        row.name: (row.requests, row.failed, row.input_tokens, row.output_tokens, row.cached_tokens, row.unpriced_calls)
        for row in rows
    } == {name: tuple(int(value) for value in values) for name, *values, _ in expected}
    for name, *_, usd in expected:
        (row,) = [row for row in rows if row.name == name]
        assert row.usd == (None if usd is None else pytest.approx(usd, abs=1e-9))


def test_arrivals_are_those_of_duckdb(found: Report, books: duckdb.DuckDBPyConnection) -> None:
    expected = books.execute(
        "SELECT floor(at_s / 60)::BIGINT AS w, count(*) FROM call GROUP BY w ORDER BY w"
    ).fetchall()
    first = expected[0][0]
    assert found.arrivals == tuple(((number - first) * 60.0, count) for number, count in expected)
    (span_s,) = books.execute("SELECT (max(at_s) - min(at_s)) * count(*) / (count(*) - 1) FROM call").fetchall()[0]
    assert found.span_hours == pytest.approx(span_s / 3600)


def test_totals_are_the_sum_of_each_table(found: Report) -> None:
    for rows in (found.models, found.tenants, found.categories):
        assert sum(row.requests for row in rows) == found.totals.requests == N_REQUESTS
        assert sum(row.usd or 0.0 for row in rows) == pytest.approx(found.totals.usd)


def test_same_seed_makes_the_same_log() -> None:
    assert list(lines(50, 1.0, 3)) == list(lines(50, 1.0, 3)) != list(lines(50, 1.0, 4))


def priced(_: str | None, model: str) -> ModelPrices | None:
    price = TokenPrice(input_usd=2, output_usd=10, source="s", as_of="2026-01-31")
    dear = TokenPrice(input_usd=4, output_usd=20, source="s", as_of="2026-01-31")
    half = TokenPrice(input_usd=1, output_usd=5, source="s", as_of="2026-01-31")
    return ModelPrices(standard=price, batch=half, long_context=dear, long_after_tokens=1000) if model == "m" else None


def test_batch_and_long_prompts_pay_their_own_price() -> None:
    accounts = Accounts(priced)
    for call in (Call("m", 1000, 0), Call("m", 1000, 0, batch=True), Call("m", 1001, 0)):
        accounts.add(call)
    (total,) = accounts.by(lambda _: None).values()
    assert total.usd == pytest.approx((1000 * 2 + 1000 * 1 + 1001 * 4) * 1e-6)
    assert accounts.usd(Call("m", 1001, 0)) == pytest.approx(1001 * 4e-6)


def test_long_batch_that_is_not_sold_is_unpriced() -> None:
    accounts = Accounts(priced)
    accounts.add(Call("m", 1001, 0, batch=True))
    (total,) = accounts.by(lambda _: None).values()
    assert (total.usd, total.unpriced_calls) == (None, 1)


def test_recorded_dollars_win_and_an_unknown_one_is_counted() -> None:
    accounts = Accounts(priced)
    accounts.add(Call("m", 1000, 0, recorded_usd=7.0))
    accounts.add(Call("m", 1000, 0, unpriced=True))
    (total,) = accounts.by(lambda _: None).values()
    assert (total.usd, total.unpriced_calls, total.calls) == (7.0, 1, 2)


def test_failed_call_of_an_unknown_model_raises_no_alarm() -> None:
    accounts = Accounts(priced)
    accounts.add(Call("unknown", 0, 0, failed=True))
    accounts.add(Call("m", 1000, 0))
    (total,) = accounts.by(lambda _: None).values()
    assert (total.usd, total.unpriced_calls, total.failed) == (pytest.approx(0.002), 0, 1)


def test_names_beyond_the_bound_are_added_up_and_not_lost() -> None:
    accounts = Accounts(priced)
    for number in range(MAX_NAMES + 500):
        accounts.add(Call("m", 1, 0, tenant=f"t{number}"))
    tenants = accounts.by(lambda key: key.tenant)
    assert len(tenants) == MAX_NAMES + 1
    assert tenants[OTHERS].requests == 500


def test_long_logs_get_wider_windows_and_lose_nothing() -> None:
    arrivals = Arrivals()
    for number in range(MAX_WINDOWS + 1):
        arrivals.add(Call("m", 2, 1, at_s=60.0 * number))
    numbers, table = arrivals.table()
    assert arrivals.width_s == 120
    assert len(numbers) == MAX_WINDOWS // 2 + 1
    assert table.sum(axis=0).tolist() == [MAX_WINDOWS + 1, 2 * (MAX_WINDOWS + 1), MAX_WINDOWS + 1]


def test_lines_out_of_order_do_not_change_the_arrivals(tmp_path: Path) -> None:
    rows = [chat(n) for n in (5, 1, 9, 0, 30)]
    mixed = report(write(tmp_path / "mixed.jsonl", rows))
    ordered = report(write(tmp_path / "ordered.jsonl", sorted(rows, key=lambda row: float(row["timestamp"]))))
    assert (mixed.arrivals, mixed.span_hours) == (ordered.arrivals, ordered.span_hours)


def test_report_survives_a_trip_through_json(tmp_path: Path) -> None:
    found = report(write(tmp_path / "log.jsonl", [chat(n) for n in range(9)]), "--prices", own_prices(tmp_path))
    assert Report.model_validate(json.loads(json.dumps(found.model_dump(mode="json")))) == found
