"""Goodput counts what kept both limits; failures count nowhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.client import Sample
from benchmarks.load.figures import Slo, figures

SLO = Slo(ttft_s=0.5, tpot_s=0.1)


def sample(ttft_s: float = 0.1, tpot_s: float = 0.05, tokens: int = 11, error: str | None = None) -> Sample:
    e2e_s = ttft_s + tpot_s * (tokens - 1)
    return Sample(
        0.0,
        e2e_s=e2e_s,
        ttft_s=ttft_s,
        last_s=e2e_s,
        output_tokens=tokens,
        input_tokens=20,
        cached_tokens=5,
        error=error,
    )


@pytest.mark.parametrize(
    ("one", "good"),
    [
        (sample(), True),
        (sample(ttft_s=0.5), True),
        (sample(ttft_s=0.51), False),
        (sample(tpot_s=0.11), False),
        (sample(tokens=1), True),
        (sample(error="TimeoutError"), False),
        (Sample(0.0), False),
    ],
)
def test_both_limits_must_be_kept(one: Sample, good: bool) -> None:
    assert SLO.met(one) is good


@given(st.lists(st.builds(sample, st.floats(0.01, 2), st.floats(0.001, 1), st.integers(1, 50)), min_size=1))
def test_goodput_is_at_most_what_was_answered(samples: list[Sample]) -> None:
    found = figures(samples, 2.0, SLO)
    assert found["goodput_rps"] is not None
    assert found["requests_rps"] is not None
    assert found["goodput_rps"] <= found["requests_rps"] == len(samples) / 2


def test_failures_are_counted_and_bring_no_tokens() -> None:
    found = figures([sample(), sample(error="ClientError")], 1.0, SLO)
    assert (found["failed"], found["output_tps"], found["total_tps"], found["hit_rate"]) == (1, 11, 31, 0.25)


def test_nothing_measured_is_no_number() -> None:
    found = figures([sample(error="ClientError")], 1.0, SLO)
    assert (found["failed"], found["output_tps"], found["ttft_p50_s"], found["goodput_rps"]) == (1, None, None, None)
