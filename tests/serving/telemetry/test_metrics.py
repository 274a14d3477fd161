"""The metrics: each settled request moves the right ones, their names are documented, their series are bounded."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from routing.cost.budget import Action, Scope
from routing.records import RequestedModel, RequestOutcome, RequestRecord, Tier, Usage
from serving.hosted.breaker import BreakerState
from serving.hosted.faults import Reason
from serving.learning.sampler import SampleEvent
from serving.ledger.config import LedgerConfig
from serving.ledger.writer import Ledger
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.tracker import ReplicaTracker
from serving.request.tiers import EngineStats
from serving.telemetry.metrics import Telemetry
from tests.serving.ledger.examples import ACCEPTED, DRAFT, ESCALATED, EXAMPLES, FAILED, FRONTIER, ROUTER
from tests.serving.ledger.records import anything

README = Path(__file__).resolve().parents[3] / "deploy" / "README.md"
ROW = re.compile(r"^\| `(?P<name>tierwise_\w+)` \| (?P<labels>[^|]*)\| [^|]+ \|$", re.MULTILINE)


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry("c0ffee")


def families(telemetry: Telemetry) -> list[Metric]:
    return list(text_string_to_metric_families(telemetry.render().decode()))


def value(telemetry: Telemetry, name: str, **labels: str) -> float:
    """One sample; 0 before it was first counted."""
    return telemetry.registry.get_sample_value(name, labels) or 0.0


def series(telemetry: Telemetry) -> int:
    return sum(len(family.samples) for family in families(telemetry))


def test_accepted_draft_is_counted_where_a_reader_looks_for_it(telemetry: Telemetry) -> None:
    telemetry.observe(ACCEPTED)
    labels = {"api": "chat.completions", "requested_model": "auto", "tier": "tier1", "outcome": "ok"}
    assert value(telemetry, "tierwise_requests_total", **labels) == 1
    decision = {"tier": "tier1", "reason": "score_high", "category": "code"}
    assert value(telemetry, "tierwise_decisions_total", **decision) == 1
    assert value(telemetry, "tierwise_verdicts_total", accepted="true", category="code") == 1
    for kind, outcome in (("router", "used"), ("draft", "served")):
        assert value(telemetry, "tierwise_attempts_total", kind=kind, outcome=outcome, error="none") == 1
    assert value(telemetry, "tierwise_tokens_total", kind="draft", direction="input") == 160
    assert value(telemetry, "tierwise_tokens_total", kind="draft", direction="cached") == 128
    assert value(telemetry, "tierwise_tokens_total", kind="draft", direction="output") == 48
    assert value(telemetry, "tierwise_cost_usd_total", kind="draft") == DRAFT.cost_usd
    assert value(telemetry, "tierwise_cost_usd_total", kind="router") == ROUTER.cost_usd
    assert value(telemetry, "tierwise_baseline_cost_usd_total") == ACCEPTED.baseline_cost_usd
    assert value(telemetry, "tierwise_request_duration_seconds_sum", tier="tier1") == ACCEPTED.duration_s
    assert value(telemetry, "tierwise_ttft_seconds_sum", tier="tier1") == ACCEPTED.ttft_s
    assert value(telemetry, "tierwise_held_seconds_sum") == ACCEPTED.held_s
    assert value(telemetry, "tierwise_unknown_price_attempts_total", kind="draft") == 0


def test_rejected_draft_counts_every_reason_and_what_it_cost(telemetry: Telemetry) -> None:
    telemetry.observe(ESCALATED)
    assert value(telemetry, "tierwise_verdicts_total", accepted="false", category="code") == 1
    assert value(telemetry, "tierwise_rejections_total", reason="loop") == 1
    assert value(telemetry, "tierwise_rejections_total", reason="truncated") == 1
    assert value(telemetry, "tierwise_attempts_total", kind="draft", outcome="rejected", error="none") == 1
    assert value(telemetry, "tierwise_cost_usd_total", kind="draft") == DRAFT.cost_usd
    assert value(telemetry, "tierwise_cost_usd_total", kind="frontier") == FRONTIER.cost_usd


def test_failed_request_is_counted_by_its_code_and_by_no_tier(telemetry: Telemetry) -> None:
    telemetry.observe(FAILED)
    assert value(telemetry, "tierwise_request_errors_total", code="frontier_unavailable") == 1
    labels = {"api": "completions", "requested_model": "frontier", "tier": "none", "outcome": "error"}
    assert value(telemetry, "tierwise_requests_total", **labels) == 1
    error = {"kind": "frontier", "outcome": "failed", "error": "frontier_unavailable"}
    assert value(telemetry, "tierwise_attempts_total", **error) == 1
    assert value(telemetry, "tierwise_ttft_seconds_count", tier="none") == 0


def test_unknown_price_is_an_alarm_and_adds_nothing_to_the_cost(telemetry: Telemetry) -> None:
    """The price is missing: null and an alarm, never 0."""
    unknown = FRONTIER.model_copy(update={"cost_usd": None, "price_source": None})
    telemetry.observe(ESCALATED.model_copy(update={"cost_usd": None, "attempts": (ROUTER, unknown)}))
    assert value(telemetry, "tierwise_unknown_price_attempts_total", kind="frontier") == 1
    assert value(telemetry, "tierwise_cost_usd_total", kind="frontier") == 0
    assert value(telemetry, "tierwise_cost_usd_total", kind="router") == ROUTER.cost_usd


def test_known_price_of_unmeasured_usage_is_no_alarm(telemetry: Telemetry) -> None:
    unmeasured = FRONTIER.model_copy(update={"usage": None, "cost_usd": None})
    telemetry.observe(ESCALATED.model_copy(update={"attempts": (unmeasured,)}))
    assert value(telemetry, "tierwise_unknown_price_attempts_total", kind="frontier") == 0


def test_degraded_answers_are_counted(telemetry: Telemetry) -> None:
    telemetry.observe(ACCEPTED)
    telemetry.observe(ACCEPTED.model_copy(update={"degraded": True}))
    assert value(telemetry, "tierwise_degraded_total") == 1


def test_running_configuration_is_told() -> None:
    assert value(Telemetry("c0ffee"), "tierwise_config_info", hash="c0ffee") == 1


def show_what_runs_beside_requests(telemetry: Telemetry, replica_id: str = "r0") -> None:
    """A provider's fault, its breaker, and the load of an engine."""
    telemetry.try_failed("acme", Reason.OVERLOADED)
    telemetry.breaker_changed("acme", BreakerState.OPEN)
    telemetry.sample(SampleEvent.KEPT)
    telemetry.reloaded(True, ("c0ffee",))
    telemetry.budgets.labels(Scope.TENANT, Action.REFUSE).inc()
    telemetry.load(Tier.TIER1, EngineStats(replica_id, 3, 1, 0.5, 700, 1000, 800, 12.5))


def test_faults_breakers_and_load_are_told(telemetry: Telemetry) -> None:
    show_what_runs_beside_requests(telemetry)
    assert value(telemetry, "tierwise_frontier_faults_total", provider="acme", reason="overloaded") == 1
    assert value(telemetry, "tierwise_breaker_open", provider="acme") == 1
    assert value(telemetry, "tierwise_engine", tier="tier1", quantity="running") == 3
    assert value(telemetry, "tierwise_engine", tier="tier1", quantity="kv_usage_ratio") == 0.5
    telemetry.breaker_changed("acme", BreakerState.HALF_OPEN)
    assert value(telemetry, "tierwise_breaker_open", provider="acme") == 1
    telemetry.breaker_changed("acme", BreakerState.CLOSED)
    assert value(telemetry, "tierwise_breaker_open", provider="acme") == 0


def test_number_of_series_does_not_grow_with_traffic(telemetry: Telemetry) -> None:
    """Tenants, models, sessions, replicas and ids are in the ledger, never in a label."""
    rng = random.Random(62)

    def stranger(row: RequestRecord) -> RequestRecord:
        name = f"{rng.getrandbits(64):x}"
        attempts = tuple(
            a.model_copy(
                update={
                    "model": f"model-{name}",
                    "provider": f"provider-{name}",
                    "replica_id": f"replica-{name}",
                    "price_source": a.price_source and f"list-{name}",
                    "try_number": rng.randrange(1, 1000),
                    "usage": Usage(input_tokens=rng.randrange(10**6), output_tokens=rng.randrange(10**6)),
                }
            )
            for a in row.attempts
        )
        return row.model_copy(
            update={
                "request_id": name,
                "tenant": f"tenant-{name}",
                "session_id": f"session-{name}",
                "served_model": f"model-{name}",
                "config_hash": name,
                "duration_s": rng.random() * 1000,
                "attempts": attempts,
            }
        )

    for row in EXAMPLES:
        telemetry.observe(stranger(row))
    show_what_runs_beside_requests(telemetry)
    before = series(telemetry)
    for number in range(1000):
        telemetry.observe(stranger(EXAMPLES[number % len(EXAMPLES)]))
        show_what_runs_beside_requests(telemetry, f"replica-{number}")
    assert series(telemetry) == before
    assert value(telemetry, "tierwise_tokens_total", kind="router", direction="input") > 0


@given(anything)
def test_any_record_can_be_counted_and_is_counted_once(row: RequestRecord) -> None:
    telemetry = Telemetry("c0ffee")
    telemetry.observe(row)
    counted = {
        f.name: sum(s.value for s in f.samples if s.name.endswith(("_total", "_count"))) for f in families(telemetry)
    }
    assert counted["tierwise_requests"] == counted["tierwise_request_duration_seconds"] == 1
    assert counted["tierwise_attempts"] == len(row.attempts)
    assert counted["tierwise_cost_usd"] == pytest.approx(sum(a.cost_usd or 0 for a in row.attempts))
    assert counted["tierwise_request_errors"] == (row.error is not None)


def documented() -> dict[str, set[str]]:
    """Metric → labels, as the table in deploy/README.md has them."""
    return {row["name"]: set(re.findall(r"`(\w+)`", row["labels"])) for row in ROW.finditer(README.read_text("utf-8"))}


def test_documented_metrics_are_the_metrics(tmp_path: Path) -> None:
    with Ledger(LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.sqlite3")) as ledger:
        telemetry = Telemetry("c0ffee", ledger)
        for row in EXAMPLES:
            telemetry.observe(row)
        show_what_runs_beside_requests(telemetry)
        telemetry.watch(ReplicaTracker(ReplicaRoutingConfig()))
        exposed: dict[str, set[str]] = {}
        for family in telemetry.registry.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            exposed[name] = labels
    assert documented() == exposed


def test_every_outcome_and_model_a_client_can_choose_has_a_bounded_label(telemetry: Telemetry) -> None:
    for model in RequestedModel:
        for outcome in RequestOutcome:
            telemetry.observe(ACCEPTED.model_copy(update={"requested_model": model, "outcome": outcome}))
    (requests,) = [f for f in families(telemetry) if f.name == "tierwise_requests"]
    totals = [s for s in requests.samples if s.name.endswith("_total")]
    assert len(totals) == len(RequestedModel) * len(RequestOutcome)


def test_series_of_several_processes_are_told_apart(telemetry: Telemetry) -> None:
    telemetry.observe(ACCEPTED)
    lines = telemetry.render("r1").decode().splitlines()
    series = [line for line in lines if not line.startswith("#")]
    assert series
    assert all('{replica="r1"' in line for line in series)
    plain = [line for line in telemetry.render().decode().splitlines() if not line.startswith("#")]
    assert [re.sub(r'\{replica="r1",?', "{", line).replace("{}", "") for line in series] == plain
