"""What the samples of one round amount to: throughput, first token, pace, and goodput under stated limits."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.load.client import Sample, quantile


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to count as good: seconds until its first token and per further token."""

    ttft_s: float
    tpot_s: float

    def met(self, sample: Sample) -> bool:
        """Whether a request succeeded within both limits. One of a single token has no pace to keep."""
        if sample.error is not None or sample.ttft_s is None or sample.ttft_s > self.ttft_s:
            return False
        return sample.tpot_s is None or sample.tpot_s <= self.tpot_s


def figures(samples: Sequence[Sample], wall_s: float, slo: Slo) -> dict[str, float | None]:
    """The figures of one round. None where nothing succeeded. Failed requests count in nothing but `failed`."""
    done = [s for s in samples if s.error is None]
    ttfts = [s.ttft_s for s in done if s.ttft_s is not None]
    tpots = [s.tpot_s for s in done if s.tpot_s is not None]
    gaps = [gap for s in done for gap in s.gaps_s]
    inputs = sum(s.input_tokens or 0 for s in done)
    outputs = sum(s.output_tokens or 0 for s in done)
    return {
        "requests_rps": len(done) / wall_s if done else None,
        "output_tps": outputs / wall_s if done else None,
        "total_tps": (inputs + outputs) / wall_s if done else None,
        "ttft_p50_s": quantile(ttfts, 0.5),
        "ttft_p99_s": quantile(ttfts, 0.99),
        "tpot_p50_s": quantile(tpots, 0.5),
        "itl_p50_s": quantile(gaps, 0.5),
        "itl_p99_s": quantile(gaps, 0.99),
        "e2e_p50_s": quantile([s.e2e_s for s in done if s.e2e_s is not None], 0.5),
        "goodput_rps": sum(slo.met(s) for s in samples) / wall_s if done else None,
        "hit_rate": sum(s.cached_tokens or 0 for s in done) / inputs if inputs else None,
        "failed": float(len(samples) - len(done)),
    }


def first_error(samples: Sequence[Sample]) -> str | None:
    """What the first failed request was told. None: none failed."""
    return next((s.error for s in samples if s.error is not None), None)
