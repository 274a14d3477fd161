"""Gateways beside the bare engine: what each adds is of the same round, and who did not start is named."""

from pathlib import Path

import pytest

from benchmarks.load.client import Sample
from benchmarks.load.figures import figures
from benchmarks.load.targets import Target
from benchmarks.run.lab import TINY_SLO, Lab
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections.peers import BARE, DOES, against, peer_versions, starters, table


def rounds(single_s: float, tps: float) -> dict[str, float | None]:
    one = Sample(0.0, e2e_s=1.0, ttft_s=0.1, output_tokens=int(tps), input_tokens=1)
    return {"single_p50_s": single_s, "single_p99_s": single_s, **figures([one], 1.0, TINY_SLO)}


def test_added_latency_is_of_the_same_round() -> None:
    (found,) = against([rounds(0.020, 90)], [rounds(0.012, 100)])
    assert found["single_added_s"] == pytest.approx(0.008)
    assert found["output_tps_ratio"] == pytest.approx(0.9)
    (nothing,) = against([{"single_p50_s": None, "ttft_p50_s": None}], [rounds(0.012, 100)])
    assert set(nothing.values()) == {None}


def test_table_has_every_gateway_and_the_reason_of_who_is_missing() -> None:
    bare, ours = [rounds(0.012, 100)], [rounds(0.02, 90)]
    rows = [
        {"row": BARE, **over_rounds(bare)},
        {"row": "tierwise, tier1", **over_rounds(ours)},
        {"row": "x", "of": "tierwise, tier1", **over_rounds(against(ours, bare))},
    ]
    shown = table({"rows": rows, "not_started": {"litellm": "ended with status 1"}, "versions": {}})
    assert "0.900" in shown
    assert "litellm did not start: ended with status 1" in shown
    assert "make bench-peers" in shown


def test_without_their_commands_only_what_is_installed_here_is_tried(tmp_path: Path) -> None:
    target = Target("http://127.0.0.1:1", "m")
    lab = Lab("tiny", TINY_SLO, target, target, target, None)
    assert list(starters(Plan(scratch=tmp_path), lab)) == ["ray serve llm"]
    every = starters(Plan(scratch=tmp_path, peers=tmp_path), lab)
    assert {*every, BARE, "tierwise, tier1", "tierwise, frontier"} == set(DOES)


def test_versions_are_those_of_the_peers_own_environment(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.11/site-packages/litellm-1.2.3.dist-info").mkdir(parents=True)
    assert peer_versions(tmp_path / "bin") == {"litellm": "1.2.3"}
    assert peer_versions(None) == {}
