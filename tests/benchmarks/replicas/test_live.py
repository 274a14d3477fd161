"""What the live benchmark makes of what it saw; the engines themselves are not started here."""

import pytest

from benchmarks.__main__ import main
from benchmarks.load.client import Sample
from benchmarks.replicas.live import STACKS, median_round, noted, print_live, row
from benchmarks.replicas.peer_routers import PEERS


def sample(cached: int, ttft_s: float) -> Sample:
    return Sample(0.0, e2e_s=1.0, ttft_s=ttft_s, output_tokens=8, input_tokens=100, cached_tokens=cached)


def test_failures_are_counted_and_say_why() -> None:
    figures = row("ours", "load", [sample(50, 0.1), sample(70, 0.3), Sample(0.0, error="TimeoutError")], 2.0)
    assert (figures["requests"], figures["failed"], figures["first_error"]) == (3, 1, "TimeoutError")
    assert (figures["hit_tokens"], figures["hit_rate"]) == (120, 0.6)
    assert figures["ttft_mean_s"] == pytest.approx(0.2)
    assert figures["output_tps"] == 8


def test_nothing_measured_is_no_number() -> None:
    figures = row("ours", "load", [Sample(0.0, error="ClientError")], 2.0)
    assert (figures["hit_rate"], figures["ttft_p50_s"], figures["failed"]) == (None, None, 1)


def test_row_of_several_rounds_is_the_median_one_with_every_failure() -> None:
    rounds = [
        row("ours", "load", [sample(cached, ttft_s)], 1.0) for cached, ttft_s in ((50, 0.3), (70, 0.1), (60, 0.2))
    ]
    rounds[1] = row("ours", "load", [sample(70, 0.1), Sample(0.0, error="TimeoutError")], 1.0)
    shown = median_round(rounds)
    assert (shown["ttft_mean_s"], shown["hit_rate"]) == (0.2, 0.6)
    assert (shown["failed"], shown["first_error"]) == (1, "TimeoutError")
    assert shown["hit_rates"] == [0.5, 0.7, 0.6]


def test_target_that_does_not_start_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"rows": [row("power_of_two", "load", [sample(50, 0.1)], 1.0)], "not_started": {}}
    with noted(document, "sglang_router_cache_aware"):
        raise SystemExit("smg ended with status 1")
    print_live(document)
    shown = capsys.readouterr().out
    assert "sglang_router_cache_aware did not start: smg ended with status 1" in shown
    assert "1.00" in shown  # hits relative to power of two choices


def test_one_name_is_one_target() -> None:
    assert not set(STACKS) & set(PEERS)


def test_a_trace_or_live_is_needed() -> None:
    with pytest.raises(SystemExit, match="--live"):
        main(["replicas"])
