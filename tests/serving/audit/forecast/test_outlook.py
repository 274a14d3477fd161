"""Conclusions: what is saved by which share, the fleet for the arrivals, prices from the list, kinds of work."""

import random
from datetime import date
from pathlib import Path

import msgspec
import pytest

from serving.audit.forecast.assumptions import Assumptions
from serving.audit.forecast.fleet import size_fleet
from serving.audit.forecast.queueing import replicas_for
from serving.audit.formats.call import Call, LoggedRequest
from serving.audit.traffic.arrivals import Arrivals
from serving.audit.traffic.price_list import PriceList
from serving.audit.traffic.sample import Reservoir
from tests.serving.audit.audit_logs import chat, own_prices, report, write

ROOT = Path(__file__).parents[4]


def test_dollars_of_a_scenario_by_hand(tmp_path: Path) -> None:
    """1,000 requests of 100 + 20 tokens over 9,990 s, all kept: rent of one replica, the router, a shadow per cent."""
    log = write(tmp_path / "log.jsonl", [chat(n) for n in range(1000)])
    found = report(log, "--prices", own_prices(tmp_path), "--relative-quality", "1", "--gpu-usd-per-hour", "3.6")
    now_usd = 1000 * (100 * 3 + 20 * 15) * 1e-6
    expected = found.outlook.scenarios[1]
    assert expected.kept_ratio == 1.0
    assert found.outlook.now_usd == pytest.approx(now_usd)
    assert expected.fleet is not None
    assert (expected.fleet.peak_replicas, expected.fleet.fixed_hours) == (1, pytest.approx(10_000 / 3600))
    # $3.60 an hour is a tenth of a cent a second.
    assert expected.total_usd == pytest.approx(10_000 * 0.001 + 1000 * 0.0001 + 0.01 * now_usd)
    assert expected.saved_ratio == pytest.approx(1 - (10.1 + 0.01 * now_usd) / now_usd)
    # A month of rent is 730 * 3.6. A request saves its price less router and shadow.
    saving = (now_usd * 0.99) / 1000 - 0.0001
    assert expected.break_even is not None
    assert expected.break_even.first_requests == pytest.approx(730 * 3.6 / saving, rel=1e-6)


def test_share_on_tier1_and_its_source_are_wide_without_labels(tmp_path: Path) -> None:
    found = report(write(tmp_path / "log.jsonl", [chat(n) for n in range(20)]), "--prices", own_prices(tmp_path))
    low, expected, high = (scenario.kept_ratio for scenario in found.outlook.scenarios)
    assert low < 0.2 < expected < 0.6 < high
    assert "public pairs" in found.outlook.share.source
    assert any("not in a log" in sentence for sentence in found.outlook.unknown)


def test_dearer_gpus_save_less_and_longer_requests_save_more(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", [chat(n) for n in range(200)])
    found = report(log, "--prices", own_prices(tmp_path))
    rows = {row.changed: row for row in found.outlook.sensitivity}
    base = rows.pop("as assumed")
    for changed, row in rows.items():
        assert row.saved_ratio is not None
        assert base.saved_ratio is not None
        better = changed in ("GPU at $0.50 an hour", "GPU at $1.00 an hour") or changed.endswith(
            ("2 times as long", "4 times as long")
        )
        better = better or changed in ("quality target 0.90", "quality target 0.95")
        assert (row.saved_ratio > base.saved_ratio) == better, changed


def test_profile_brings_prices_rent_and_block_size(tmp_path: Path) -> None:
    log = write(tmp_path / "log.jsonl", [chat(n, model="qwen2.5-coder-1.5b-instruct") for n in range(5)])
    found = report(log, "--profile", ROOT / "deploy" / "profiles" / "cpu.yaml")
    assert found.assumptions.replica_usd_per_hour == 0.10
    assert found.assumptions.block_size_tokens == 32
    assert found.totals.usd == pytest.approx(5 * (100 * 4 + 20 * 20) * 1e-6)
    assert found.prices[0].source is not None
    assert "Opus" in found.prices[0].source


class TestFleet:
    ASSUMED = Assumptions(slo_wait_s=0.5, slo_late_ratio=0.01)

    def test_busiest_window_sets_the_peak_and_hours_are_rented_for_their_own(self) -> None:
        arrivals, draw = Arrivals(), random.Random(5)
        for hour, per_minute in enumerate((6, 600, 6, 6)):
            for second in range(3600):
                if draw.random() < per_minute / 60 or per_minute >= 60:
                    for _ in range(max(1, per_minute // 60)):
                        arrivals.add(Call("m", 2000, 200, at_s=hour * 3600.0 + second))
        fleet = size_fleet(arrivals, 1.0, 0.0, self.ASSUMED)
        assert fleet is not None
        service_s = 2000 / 20_000 + 200 / 2_500
        needed = replicas_for(10 * service_s, service_s, 0.5, 0.01)
        assert fleet.peak_replicas in (needed, needed + 1)  # loads are rounded up by at most 1 %
        assert fleet.mean_replicas == pytest.approx((fleet.peak_replicas + 3) / 4)
        assert fleet.fixed_hours == pytest.approx(4 * fleet.peak_replicas, rel=0.01)
        assert fleet.scaled_utilisation_ratio > fleet.fixed_utilisation_ratio

    def test_half_the_work_needs_no_more_replicas(self) -> None:
        arrivals = Arrivals()
        for number in range(5000):
            arrivals.add(Call("m", 20_000, 500, at_s=number * 0.2))
        whole, half = (size_fleet(arrivals, share, 0.0, self.ASSUMED) for share in (1.0, 0.5))
        cached = size_fleet(arrivals, 1.0, 0.9, self.ASSUMED)
        assert whole is not None
        assert half is not None
        assert cached is not None
        assert half.peak_replicas < whole.peak_replicas
        assert cached.busy_hours < whole.busy_hours
        assert half.busy_hours == pytest.approx(whole.busy_hours / 2)

    def test_log_without_times_has_no_fleet_and_says_so(self, tmp_path: Path) -> None:
        row = chat()
        del row["timestamp"]
        found = report(write(tmp_path / "log.jsonl", [row] * 3), "--prices", own_prices(tmp_path))
        assert found.outlook.scenarios[1].fleet is None
        assert found.span_hours is None
        assert found.outlook.scenarios[1].total_usd is not None
        assert any("no times" in sentence for sentence in found.outlook.unknown)


class TestPriceList:
    LIST = PriceList(date(2026, 11, 22))

    def test_list_knows_input_cached_written_batch_and_long_prices(self) -> None:
        prices = self.LIST.find(None, "claude-sonnet-4-5")
        assert prices is not None
        assert prices.long_context is not None
        standard = prices.standard
        assert (standard.input_usd, standard.output_usd) == (3, 15)
        assert (standard.cached_input_usd, standard.cache_write_usd) == (0.3, 3.75)
        assert prices.batch is not None
        assert (prices.batch.input_usd, prices.batch.output_usd) == (1.5, 7.5)
        assert prices.long_after_tokens == 200_000
        assert prices.long_context.input_usd == 6
        assert "genai-prices" in standard.source

    def test_snapshot_and_provider_prefix_find_the_model(self) -> None:
        assert self.LIST.find(None, "gpt-4.1-mini-2025-04-14") == self.LIST.find("openai", "gpt-4.1-mini")
        assert self.LIST.find(None, "openai/gpt-4.1-mini") == self.LIST.find("openai", "gpt-4.1-mini")

    @pytest.mark.parametrize(("provider", "model"), [(None, "house-model-7b"), ("nobody", "gpt-4o"), (None, "")])
    def test_unknown_model_or_seller_has_no_price(self, provider: str | None, model: str) -> None:
        assert self.LIST.find(provider, model) is None


class TestSample:
    @staticmethod
    def call(text: str) -> Call:
        body = b'[{"role":"user","content":"' + text.encode() + b'"}]'
        return Call("m", 1, 1, request=LoggedRequest(messages=msgspec.Raw(body)))

    def test_short_logs_are_looked_at_whole(self) -> None:
        sample = Reservoir(size=50)
        for _ in range(50):
            assert sample.wants_next()
            sample.add(self.call("Classify the sentiment of this"), None)
        assert {each.category for each in sample.kept} == {"classify"}

    def test_every_request_has_the_same_chance(self) -> None:
        size, n, rounds = 20, 200, 300
        early = 0
        for seed in range(rounds):
            sample = Reservoir(size=size, seed=seed)
            for number in range(n):
                if sample.wants_next():
                    sample.add(Call("m", number, 0), None)
                else:
                    sample.skip()
            assert sample.seen == n
            assert len(sample.kept) == size
            early += sum(each.input_tokens < n / 2 for each in sample.kept)
        # 6,000 draws of a fair coin: five standard deviations are 194.
        assert abs(early - size * rounds / 2) < 194

    def test_text_that_is_no_list_of_messages_is_no_error(self) -> None:
        sample = Reservoir()
        for raw in (b'"just text"', b"5", b"[[1]]", b"{}"):
            sample.add(Call("m", 1, 1, request=LoggedRequest(messages=msgspec.Raw(raw))), None)
        assert len(sample.kept) == 4


def test_unnamed_kinds_of_work_are_told_from_the_texts(tmp_path: Path) -> None:
    rows = [chat(n, user="Summarize the following notes") for n in range(30)]
    rows += [chat(30 + n, user="Write a python function") for n in range(10)]
    found = report(write(tmp_path / "log.jsonl", rows))
    assert {kind.name: kind.requests_ratio for kind in found.sampled_categories} == {"summarize": 0.75, "code": 0.25}
    assert found.sampled_categories[0].plus_minus == 0.0  # every request was looked at
