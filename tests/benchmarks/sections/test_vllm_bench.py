"""Two clients are held to the same definitions; the table says where they agree."""

import pytest

from benchmarks.load.client import Sample
from benchmarks.run.spread import over_rounds
from benchmarks.sections.vllm_bench import RATES, SECONDS, our_figures, table, their_figures


def sample(ttft_s: float) -> Sample:
    frames = [ttft_s, ttft_s + 0.1, ttft_s + 0.3]
    end_s = ttft_s + 0.3
    return Sample(0.0, e2e_s=end_s, ttft_s=ttft_s, last_s=end_s, frames_s=frames, output_tokens=3, input_tokens=10)


def test_our_figures_follow_the_other_clients_definitions() -> None:
    found = our_figures([sample(0.2), sample(0.4), Sample(0.0, error="TimeoutError")], 2.0)
    assert found["ttft_mean_s"] == pytest.approx(0.3)
    assert found["tpot_p50_s"] == pytest.approx(0.15)
    assert found["itl_p50_s"] == pytest.approx(0.15)
    assert (found["requests_rps"], found["output_tps"], found["total_tps"], found["failed"]) == (1.0, 3.0, 13.0, 1.0)


def test_their_milliseconds_become_seconds_and_every_figure_has_a_counterpart() -> None:
    result = {**dict.fromkeys(SECONDS.values(), 250.0), **dict.fromkeys(RATES.values(), 4.0), "failed": 0}
    found = their_figures(result)
    assert (found["ttft_p50_s"], found["output_tps"]) == (0.25, 4.0)
    assert found.keys() == our_figures([sample(0.1)], 1.0).keys()


def test_table_says_which_figures_are_within_five_percent() -> None:
    names = [*SECONDS, *RATES]
    ours = {"row": "ours", **over_rounds([dict.fromkeys([*names, "failed"], 1.0)])}
    ratio = {"row": "r", **over_rounds([{**dict.fromkeys(names, 1.04), "output_tps": 1.06, "ttft_p50_s": None}])}
    document = {"rows": [ours, ours, ratio], "requests": 3, "load": "short", "warm_up_requests": 3}
    lines = {line.split("  ")[0]: line for line in table(document).splitlines()}
    assert lines["requests_rps"].endswith("yes")
    assert lines["output_tps"].endswith("no")
    assert lines["ttft_p50, ms"].endswith("-")
