"""The simulated tier grows with its load; hits and times come from the replica router's own code."""

from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.scale import conversations, measure, plot, table
from benchmarks.section import Plan


def test_load_grows_with_the_replicas_and_is_the_same_for_a_seed() -> None:
    one, four = conversations(1, 0), conversations(4, 0)
    assert len(four) == pytest.approx(4 * len(one), rel=0.05)
    assert conversations(4, 0) == four != conversations(4, 1)
    rate = len(four) / four[-1].at_s
    assert rate > 2 * len(one) / one[-1].at_s


def test_a_turn_repeats_all_that_its_conversation_said_before() -> None:
    last: dict[int, tuple[int, ...]] = {}
    for request in conversations(2, 0):
        before = last.get(request.session, ())
        assert request.keys[: len(before)] == before
        last[request.session] = request.keys


def test_kv_aware_keeps_its_hits_while_the_tier_grows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scale, "REPLICAS", (1, 4))
    monkeypatch.setattr(scale, "REQUESTS_PER_REPLICA", 40)
    found = measure(Plan(scratch=tmp_path, quick=True, rounds=2))
    rows = {row["row"]: row for row in found["rows"]}
    ours, blind = rows["simulated, 4 replicas, kv_aware"], rows["simulated, 4 replicas, least_requests"]
    assert ours["hit_rate"] > blind["hit_rate"]
    assert ours["rounds"] == 2
    assert ours["decision_p50_s"] > 0
    assert "4 replicas" in table(found)
    plot(found, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 0
