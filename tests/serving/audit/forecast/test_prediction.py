"""The forecast against a ledger: right on traffic of the same kind, and honest about what it cannot compare."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from serving.audit.forecast.prediction import check, learn, pilot_of, predict, read_ledger, share_of
from serving.errors import AuditError
from tests.serving.audit.audit_logs import report, write


def ledger_row(draw: random.Random, number: int, escalated_ratio: float = 0.3) -> dict[str, Any]:
    """A booked request: router, draft at 4,000 and 50 tokens/s of a $1 engine, and the frontier when it is rejected."""
    input_tokens, output_tokens = draw.randint(50, 2000), draw.randint(5, 200)
    cached = input_tokens // 3
    escalated = draw.random() < escalated_ratio
    engine_s = ((input_tokens - cached) / 4000 + output_tokens / 50) * draw.uniform(0.8, 1.2)
    baseline_usd = (input_tokens * 4 + output_tokens * 20) * 1e-6

    def attempt(kind: str, tier: str, outcome: str, cost_usd: float, **more: Any) -> dict[str, Any]:
        usage = {"input_tokens": input_tokens, "output_tokens": output_tokens, "cached_tokens": cached}
        return {
            "kind": kind, "tier": tier, "provider": "self", "model": tier, "outcome": outcome, "usage": usage,
            "cost_usd": cost_usd,
        } | more  # fmt: skip

    attempts = [
        attempt("router", "router", "used", 2e-5),
        attempt("draft", "tier1", "rejected" if escalated else "served", engine_s / 3600, engine_s=engine_s),
    ]
    if escalated:
        attempts.append(attempt("frontier", "frontier", "served", baseline_usd, provider="acme"))
    return {
        "request_id": str(number), "at": f"2026-03-01T{number // 3600:02d}:{number // 60 % 60:02d}:{number % 60:02d}Z",
        "tenant": "blue", "outcome": "ok", "attempts": attempts, "served_tier": "tier1", "served_model": "m",
        "features": {"category": draw.choice(["chat", "code"]), "input_tokens": input_tokens},
        "cost_usd": sum(a["cost_usd"] for a in attempts), "baseline_cost_usd": baseline_usd,
    }  # fmt: skip


def ledger(folder: Path, n: int, seed: int = 1, escalated_ratio: float = 0.3) -> Path:
    draw = random.Random(seed)
    return write(folder / f"ledger{seed}.jsonl", [ledger_row(draw, number, escalated_ratio) for number in range(n)])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_later_half_is_predicted_from_the_earlier_one_within_a_tenth(tmp_path: Path, seed: int) -> None:
    found = check(ledger(tmp_path, 2000, seed), None)
    assert found is not None
    assert found.rows == 1000
    assert found.error_ratio == pytest.approx(0.0, abs=0.10)
    assert found.layers["drafts"].predicted_usd == pytest.approx(found.layers["drafts"].measured_usd, rel=0.05)
    assert found.error_low is not None
    assert found.error_high is not None
    assert found.error_low < found.error_ratio < found.error_high


def test_what_is_sent_up_may_be_longer_than_what_is_kept(tmp_path: Path) -> None:
    """A share of requests would forecast five eighths of this bill. A share of dollars forecasts all of it."""
    draw = random.Random(1)
    rows = [ledger_row(draw, number, escalated_ratio=float(number % 2)) for number in range(2000)]
    for row in rows[1::2]:
        row["baseline_cost_usd"] *= 4
        row["attempts"][2]["cost_usd"] *= 4
    found = check(write(tmp_path / "ledger.jsonl", rows), None)
    assert found is not None
    frontier = found.layers["frontier"]
    assert frontier.predicted_usd == pytest.approx(frontier.measured_usd, rel=0.1)


def test_both_sides_have_intervals_that_hold_them(tmp_path: Path) -> None:
    found = check(ledger(tmp_path, 400), None)
    assert found is not None
    for value, ends in (
        (found.predicted_usd, found.predicted_interval_usd),
        (found.measured_usd, found.measured_interval_usd),
    ):
        assert ends is not None
        assert ends[0] < value < ends[1]


def test_small_samples_say_how_much_of_the_error_is_chance(tmp_path: Path) -> None:
    few, many = check(ledger(tmp_path, 100, 1), None), check(ledger(tmp_path, 4000, 2), None)
    assert few is not None
    assert many is not None
    assert None not in (few.error_low, few.error_high, many.error_low, many.error_high)
    assert few.error_high - few.error_low > 2 * (many.error_high - many.error_low)  # type: ignore[operator]


def test_measured_side_is_what_the_ledger_booked(tmp_path: Path) -> None:
    path = ledger(tmp_path, 100)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = check(path, pilot_of(path))
    assert found is not None
    assert found.measured_usd == pytest.approx(sum(row["cost_usd"] for row in rows), abs=1e-12)


def test_forecast_of_other_traffic_shows_its_error(tmp_path: Path) -> None:
    """A pilot of easy traffic is wrong about hard traffic, and the report says by how much."""
    pilot = pilot_of(ledger(tmp_path, 400, seed=1, escalated_ratio=0.05))
    found = check(ledger(tmp_path, 400, seed=2, escalated_ratio=0.8), pilot)
    assert found is not None
    assert found.error_ratio is not None
    assert found.error_ratio < -0.3


def test_requests_without_a_whole_bill_are_left_out_and_counted(tmp_path: Path) -> None:
    draw = random.Random(1)
    rows = [ledger_row(draw, number) for number in range(60)]
    rows[0]["outcome"] = "cancelled"
    rows[1]["attempts"][1]["cost_usd"] = None
    rows[2]["baseline_cost_usd"] = None
    booked = read_ledger(write(tmp_path / "ledger.jsonl", rows))
    assert (len(booked), booked.left_out) == (57, 3)


def test_category_not_seen_before_gets_the_share_of_all(tmp_path: Path) -> None:
    booked = read_ledger(ledger(tmp_path, 200))
    pilot = learn(booked.table(), booked.categories, "test")
    found = predict(pilot, booked.table(), {"math": 0, "law": 1})
    assert found.error_ratio == pytest.approx(0.0, abs=0.1)


def test_small_ledgers_are_not_split_and_are_no_pilot(tmp_path: Path) -> None:
    path = ledger(tmp_path, 30)
    assert check(path, None) is None
    with pytest.raises(AuditError, match="a pilot needs 40"):
        pilot_of(path)


def test_pilot_brings_its_rates_and_its_share_into_an_audit(tmp_path: Path) -> None:
    path = ledger(tmp_path, 800)
    found = report(path, "--pilot", path)
    pilot = pilot_of(path)
    assert found.assumptions.rates == pilot.rates
    assert found.outlook.share == share_of(pilot, 0.98)
    assert found.outlook.share.low < pilot.kept_ratio < found.outlook.share.high
    assert found.outlook.scenarios[1].kept_ratio == pytest.approx(0.7, abs=0.05)
    assert not any("prefill" in sentence for sentence in found.outlook.unknown)


def test_ledger_is_compared_at_what_the_frontier_would_have_cost(tmp_path: Path) -> None:
    path = ledger(tmp_path, 100)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    found = report(path)
    assert found.outlook.now_usd == pytest.approx(sum(row["baseline_cost_usd"] for row in rows))
    assert found.totals.usd == pytest.approx(sum(row["cost_usd"] for row in rows))
