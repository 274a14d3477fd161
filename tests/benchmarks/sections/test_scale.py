"""The simulated tier grows with its load; hits and times come from the replica router's own code."""

from pathlib import Path

import pytest

from benchmarks.load.client import Sample
from benchmarks.load.figures import figures
from benchmarks.run.lab import TINY_SLO, Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections import scale
from benchmarks.sections.scale import conversations, measure, plot, table
from benchmarks.sections.scale_live import live_table


def test_load_grows_with_the_replicas_and_is_the_same_for_a_seed() -> None:
    one, four = conversations(1, 0), conversations(4, 0)
    assert len(four) == pytest.approx(4 * len(one), rel=0.05)
    assert conversations(4, 0) == four != conversations(4, 1)
    rates = [len(load) / load[-1].at_s for load in (one, four)]
    assert rates[1] == pytest.approx(4 * rates[0], rel=0.3)
    assert rates[0] == pytest.approx(scale.RATE_RPS_PER_REPLICA, rel=0.3)


def test_a_turn_repeats_all_that_its_conversation_said_before() -> None:
    last: dict[int, tuple[int, ...]] = {}
    for request in conversations(2, 0):
        before = last.get(request.session, ())
        assert request.keys[: len(before)] == before
        last[request.session] = request.keys


def test_kv_aware_keeps_its_hits_while_the_tier_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scale, "REPLICAS", (1, 4))
    monkeypatch.setattr(scale, "REQUESTS_PER_REPLICA", 40)
    plan = Plan(scratch=tmp_path, quick=True, rounds=2)
    found = measure(plan, Labs(plan))
    rows = {row["row"]: row for row in found["rows"]}
    ours, blind = rows["simulated, 4 replicas, kv_aware"], rows["simulated, 4 replicas, least_requests"]
    assert ours["hit_rate"] > blind["hit_rate"]
    assert ours["rounds"] == 2
    assert ours["decision_p50_s"] > 0
    assert "4 replicas" in table(found)
    plot(found, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 0


def test_running_sizes_and_the_ingress_alone_are_two_tables() -> None:
    sizes = figures([Sample(0.0, e2e_s=1.0, ttft_s=0.1, output_tokens=9, input_tokens=5)], 1.0, TINY_SLO)
    level = {"requests_rps": 80.0, "e2e_p50_s": 0.01, "e2e_p99_s": 0.02, "failed": 0.0}
    shown = live_table(
        [
            {"row": "2 replicas, 1 ingress", "replicas": 2, "ingress": 1, **over_rounds([sizes])},
            {"row": "no-op engine, 1 ingress, 4 at a time", "ingress": 1, "at_a_time": 4, **over_rounds([level])},
        ]
    )
    assert "2 replicas, 1 ingress" in shown.split("\n\n")[0]
    assert "80 (80-80)" in shown.split("\n\n")[1]
