"""The report is what the ledger says: a second computation from exported rows finds every figure again."""

import json
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from routing.cost.savings import Grade, Layer, SavingsConfig
from routing.learning.samples import Sample, SampleSource
from routing.records import AttemptOutcome, RequestRecord, Usage
from serving.errors import ConfigInvalid
from serving.ledger.config import LedgerConfig
from serving.ledger.export import export_jsonl
from serving.ledger.reader import LedgerReader
from serving.ledger.samples import SampleStore
from serving.ledger.store import Store
from serving.report.read import savings_report
from serving.report.table import render
from tests.golden import assert_golden
from tests.serving.ledger.examples import ACCEPTED, DRAFT, ESCALATED, EXAMPLES, FRONTIER, ROUTER, example

CENT_OF_A_MILLIONTH = 1e-9
SPEEDUP = 1.7


def a_day_of_traffic(n: int) -> list[RequestRecord]:
    """Drafts kept, thrown away, lost and cancelled, three tenants over three days, some prices unknown."""
    dice = random.Random(11)
    records = []
    for number in range(n):
        prompt = dice.randrange(20, 3000)
        usage = Usage(input_tokens=prompt, cached_tokens=dice.randrange(prompt), output_tokens=dice.randrange(1, 400))
        engine_s = 0.02 + 4e-4 * (usage.input_tokens - (usage.cached_tokens or 0)) + 0.01 * usage.output_tokens
        draft = DRAFT.model_copy(
            update={"usage": usage, "engine_s": engine_s, "cost_usd": engine_s / 3600 * 2.0, "duration_s": engine_s}
        )
        frontier = FRONTIER.model_copy(update={"usage": usage, "cost_usd": prompt * 4e-6 + usage.output_tokens * 2e-5})
        baseline_usd = frontier.cost_usd * dice.uniform(0.8, 1.0) if frontier.cost_usd else None
        match dice.randrange(6):
            case 0 | 1 | 2:
                source, attempts = ACCEPTED, (ROUTER, draft)
            case 3:
                source = ESCALATED
                attempts = (ROUTER, draft.model_copy(update={"outcome": AttemptOutcome.REJECTED}), frontier)
            case 4:
                source = ESCALATED
                attempts = (draft.model_copy(update={"outcome": AttemptOutcome.FAILED}), frontier)
            case _:
                source = ACCEPTED.model_copy(update={"served_tier": None, "verdict": None})
                attempts, baseline_usd = (draft.model_copy(update={"outcome": AttemptOutcome.CANCELLED}),), None
        unknown = dice.random() < 0.05
        if unknown:
            attempts = (*attempts[:-1], attempts[-1].model_copy(update={"cost_usd": None, "price_source": None}))
        records.append(
            source.model_copy(
                update={
                    "request_id": f"r{number:06d}",
                    "at": f"2026-03-{1 + number % 3:02d}T0{number % 10}:00:00.000000+00:00",
                    "tenant": dice.choice(["blue", "green", "red"]),
                    "features": source.features.model_copy(update={"category": dice.choice(["chat", "code"])}),
                    "session_id": f"s{number // 4}" if number % 2 else None,
                    "cost_usd": None if unknown else sum(a.cost_usd for a in attempts),
                    "baseline_cost_usd": baseline_usd,
                    "attempts": attempts,
                }
            )
        )
    return records


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.sqlite3")


def fill(config: LedgerConfig, records: list[RequestRecord]) -> LedgerReader:
    store = Store(config)
    store.migrate()
    store.insert(records)
    store.dispose()
    return LedgerReader(config)


def exported(reader: LedgerReader) -> list[dict[str, Any]]:
    out = BytesIO()
    export_jsonl(reader, out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def recompute(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The same figures in another way: whole columns, a matrix solved at once, dictionaries. No code of ours."""
    fits: dict[str, list[list[float]]] = {}
    for attempt in (a for row in rows for a in row["attempts"] if a["provider"] == "self"):
        used = attempt["usage"]
        fits.setdefault(attempt["model"], []).append(
            [1, used["input_tokens"] - used["cached_tokens"], used["output_tokens"], attempt["engine_s"]]
        )
    s_per_token = {}
    for model, lines in fits.items():
        matrix = np.array(lines)
        if len({line[1] for line in lines}) > 1:
            s_per_token[model] = np.linalg.lstsq(matrix[:, :3], matrix[:, 3], rcond=None)[0][1]
    found = dict.fromkeys(["cost", "baseline", *Layer], 0.0)
    for row in rows:
        served = {"tier1": "draft", "frontier": "frontier"}.get(row["served_tier"])
        baseline = row["baseline_cost_usd"] if served else 0.0
        if row["cost_usd"] is None or baseline is None:
            continue
        found["cost"] += row["cost_usd"]
        found["baseline"] += baseline
        found[Layer.ROUTING] += baseline
        answers = [a for a in row["attempts"] if a["kind"] == served]
        for attempt in row["attempts"]:
            cache = kernel = 0.0
            if attempt["provider"] == "self":
                usd_per_s = attempt["cost_usd"] / attempt["engine_s"]
                cache = attempt["usage"]["cached_tokens"] * s_per_token.get(attempt["model"], 0.0) * usd_per_s
                kernel = (attempt["cost_usd"] + cache) * (SPEEDUP - 1)
            found[Layer.PREFIX_CACHE] += cache
            found[Layer.KERNEL] += kernel
            if attempt["kind"] == "router" or (answers and attempt is answers[-1]):
                layer = Layer.ROUTING
            else:
                layer = Layer.GATE if attempt["outcome"] in ("rejected", "aborted") else Layer.LOST
            found[layer] -= attempt["cost_usd"] + cache + kernel
    return found


def test_every_dollar_is_found_again_from_the_exported_rows(ledger: LedgerConfig) -> None:
    reader = fill(ledger, a_day_of_traffic(1500))
    report = savings_report(reader, SavingsConfig(kernel_speedup=SPEEDUP))
    rows = exported(reader)
    everything = recompute(rows)
    for key, group in {"": report.total, **report.by_tenant}.items():
        assert group.saved_usd.value is not None
        # Speeds are the engine's, not the tenant's: layers of a tenant are checked by their sum.
        found = everything if not key else recompute([row for row in rows if row["tenant"] == key])
        assert group.cost_usd == pytest.approx(found["cost"], abs=CENT_OF_A_MILLIONTH)
        assert group.baseline_usd == pytest.approx(found["baseline"], abs=CENT_OF_A_MILLIONTH)
        assert group.saved_usd.value == pytest.approx(found["baseline"] - found["cost"], abs=CENT_OF_A_MILLIONTH)
    for layer, interval in report.total.layers.items():
        assert interval is not None
        assert interval.value == pytest.approx(everything[layer], abs=CENT_OF_A_MILLIONTH), layer
    (speed,) = report.prefill  # all router calls of the examples read equally many tokens
    assert speed.s_per_token == pytest.approx(4e-4)
    assert report.total.unpriced > 0
    assert report.total.unserved > 0


def test_report_agrees_with_the_ledgers_own_sums(ledger: LedgerConfig) -> None:
    reader = fill(ledger, a_day_of_traffic(300))
    total, summed = savings_report(reader, SavingsConfig()).total, reader.totals()
    assert total.requests == summed.requests
    assert total.served == summed.served
    assert (total.judged, total.escalated) == (summed.drafts_judged, summed.drafts_rejected)
    assert (total.input_tokens, total.output_tokens) == (summed.input_tokens, summed.output_tokens)


def test_range_tenant_and_grades_are_taken(ledger: LedgerConfig) -> None:
    reader = fill(ledger, [*EXAMPLES, example(5000, tenant="red")])
    grades = {"req-accepted": Grade(tier1_quality=1.0, frontier_quality=1.0)}
    report = savings_report(reader, SavingsConfig(), until="2026-03-01T12:00:01", tenant="blue", grades=grades)
    assert (report.total.requests, report.total.n_graded) == (1, 1)
    assert report.until == "2026-03-01T12:00:01"


def test_quality_comes_from_the_samples_that_were_graded(ledger: LedgerConfig) -> None:
    reader = fill(ledger, list(EXAMPLES))
    sample = Sample(
        request_id="req-accepted",
        at=ACCEPTED.at,
        tenant="blue",
        category="code",
        source=SampleSource.SHADOW,
        messages=({"role": "user", "content": "?"},),
        tier1_quality=0.25,
        frontier_quality=0.75,
        config_hash="c0ffee",
    )
    store = SampleStore(ledger)
    store.put_samples([sample, sample.model_copy(update={"request_id": "req-failed", "tier1_quality": None})])
    store.close()
    total = savings_report(reader, SavingsConfig()).total
    assert total.n_graded == 1
    assert total.quality is not None
    assert total.frontier_quality is not None
    assert (total.quality.value, total.frontier_quality.value) == (0.25, 0.75)


def test_ledger_that_is_not_there_is_named(ledger: LedgerConfig) -> None:
    with pytest.raises(ConfigInvalid, match="no ledger at"):
        savings_report(LedgerReader(ledger), SavingsConfig())


def test_golden_table(ledger: LedgerConfig) -> None:
    reader = fill(ledger, a_day_of_traffic(60))
    report = savings_report(
        reader, SavingsConfig(kernel_speedup=1.2), grades={"r000001": Grade(tier1_quality=0.5, frontier_quality=1.0)}
    )
    assert_golden(Path(__file__).parent / "golden" / "table.txt", render(report))


def test_table_of_nothing_says_so(ledger: LedgerConfig) -> None:
    assert render(savings_report(fill(ledger, []), SavingsConfig())) == "no requests in this range\n"
