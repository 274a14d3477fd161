"""The arms of the engine section get the same load, and their ratio is of the same round."""

import pytest

from benchmarks.load.client import Sample
from benchmarks.load.figures import figures
from benchmarks.load.targets import Target
from benchmarks.run.lab import TINY_SLO, Lab
from benchmarks.sections.engine import BEHIND, DIRECT, TIER1, Cell, arm_rows, cells, ratio_rows, table

LAB = Lab("tiny", TINY_SLO, Target("u", "tier1"), Target("d", "m"), Target("u", "frontier"), None)


def round_of(tps: int, ttft_s: float) -> dict[str, float | None]:
    return figures([Sample(0.0, e2e_s=1.0, ttft_s=ttft_s, output_tokens=tps, input_tokens=5)], 1.0, TINY_SLO)


@pytest.mark.parametrize("lab", ["tiny", "real", "running"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_lab_has_several_lengths_and_levels(lab: str, quick: bool) -> None:
    loads = cells(lab, quick)
    assert {cell.length for cell in loads} == {"short", "long"}
    assert len({cell.concurrency for cell in loads}) > 1
    assert all(cell.requests >= cell.concurrency for cell in loads)
    assert len({cell.name for cell in loads}) == len(loads)


def test_a_seed_names_its_prompts_and_no_two_prompts_begin_alike() -> None:
    cell = Cell("short", 12, 4, 2, 20)
    prompts = cell.prompts("0 1 short")
    assert prompts == cell.prompts("0 1 short")
    texts = [messages[0]["content"] for messages in prompts + cell.prompts("0 2 short")]
    assert len({text[:40] for text in texts}) == len(texts)


def test_ratio_is_throughput_of_the_same_round() -> None:
    seen = {
        ("short", DIRECT): [round_of(100, 0.01), round_of(50, 0.03)],
        ("short", TIER1): [round_of(97, 0.02), round_of(50, 0.04)],
        ("short", BEHIND): [round_of(90, 0.02), round_of(45, 0.03)],
    }
    tier1, behind = ratio_rows(LAB, seen)
    assert tier1["output_tps_ratio_spread"] == [0.97, 1.0]
    assert tier1["ttft_added_s"] == pytest.approx(0.01)
    assert behind["output_tps_ratio"] == pytest.approx(0.9)


def test_what_a_failed_request_was_told_is_printed() -> None:
    seen = {("short", TIER1): [round_of(97, 0.02)]}
    rows = arm_rows(LAB, seen, {("short", TIER1): "400 no such parameter"})
    assert ratio_rows(LAB, seen) == []  # nothing to compare with
    shown = table({"rows": rows, "warm_up_requests": 4, "goodput": {"tiny": "limits"}})
    assert "400 no such parameter" in shown
    assert "4 requests thrown away" in shown
