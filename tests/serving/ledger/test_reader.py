"""Reading while it is written: the latest, ranges, totals, and following along."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from routing.cost.prefill_speed import PrefillFit
from routing.records import AttemptKind, RequestOutcome, Tier, Usage
from serving.errors import ConfigInvalid
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.ledger.store import Store
from tests.serving.ledger.examples import ACCEPTED, ESCALATED, EXAMPLES, FAILED, START, example


@pytest.fixture
def config(database: dict[str, Any]) -> LedgerConfig:
    return LedgerConfig(**database)


@pytest.fixture
def store(config: LedgerConfig) -> Iterator[Store]:
    store = Store(config)
    store.migrate()
    yield store
    store.dispose()


@pytest.fixture
def reader(config: LedgerConfig) -> Iterator[LedgerReader]:
    reader = LedgerReader(config)
    yield reader
    reader.close()


@pytest.mark.sqlite_only
def test_ledger_that_was_never_written_is_named_not_made(config: LedgerConfig, reader: LedgerReader) -> None:
    with pytest.raises(ConfigInvalid, match=r"no ledger at .*ledger\.sqlite3"):
        reader.latest(1)
    assert config.sqlite_path is not None
    assert not config.sqlite_path.exists()


class TestRange:
    def test_pages_join_without_gap_or_repetition_even_within_one_instant(
        self, store: Store, reader: LedgerReader
    ) -> None:
        records = [
            example(number // 3).model_copy(update={"request_id": f"{-number % 7}-{number}"}) for number in range(1201)
        ]
        store.insert(records)
        assert list(reader.requests()) == sorted(records, key=lambda record: (record.at, record.request_id))

    @pytest.mark.parametrize(
        ("since", "until"),
        [
            (START + timedelta(milliseconds=10), START + timedelta(milliseconds=20)),
            ("2026-03-01T12:00:00.010+00:00", "2026-03-01T12:00:00.020Z"),
            ("2026-03-01T12:00:00.010", "2026-03-01T13:00:00.020+01:00"),
            (datetime(2026, 3, 1, 12, 0, 0, 10_000), datetime(2026, 3, 1, 12, 0, 0, 20_000, tzinfo=UTC)),
        ],
    )
    def test_range_holds_its_first_instant_and_not_its_last(
        self, store: Store, reader: LedgerReader, since: datetime | str, until: datetime | str
    ) -> None:
        store.insert([example(number) for number in range(30)])
        assert list(reader.requests(since, until)) == [example(number) for number in range(10, 20)]

    def test_no_tenant_sees_another_ones_requests(self, store: Store, reader: LedgerReader) -> None:
        store.insert([example(number, tenant="red" if number % 3 else "blue") for number in range(900)])
        assert {record.tenant for record in reader.requests(tenant="red")} == {"red"}
        assert len(list(reader.requests(tenant="red"))) == 600

    def test_nonsense_instead_of_a_time_is_named(self, store: Store, reader: LedgerReader) -> None:
        with pytest.raises(ConfigInvalid, match="'yesterday'"):
            list(reader.requests(since="yesterday"))

    def test_caller_may_write_while_it_reads(self, store: Store, reader: LedgerReader) -> None:
        store.insert([example(number) for number in range(600)])
        for number, record in enumerate(reader.requests()):
            if number == 0:
                store.insert([FAILED])
            assert record.request_id


class TestTail:
    def test_latest_are_given_oldest_first(self, store: Store, reader: LedgerReader) -> None:
        store.insert([example(number) for number in range(30)])
        assert reader.latest(3) == [example(27), example(28), example(29)]

    def test_tail_is_headed_and_one_line_each(self, store: Store, reader: LedgerReader) -> None:
        store.insert(EXAMPLES)
        header, *lines = reader.tail(2)
        assert header.startswith("time")
        assert [line.split()[2] for line in lines] == ["req-escalated", "req-failed"]

    def test_following_gives_every_request_once_also_those_that_ended_late(
        self, store: Store, reader: LedgerReader
    ) -> None:
        stop = threading.Event()
        store.insert([example(100), example(101)])
        following = reader.follow(1, poll_s=0.001, stop=stop)
        assert next(following) == example(101)
        store.insert([example(102)])
        seen = [next(following).request_id for _ in range(2)]  # 100 was not among the latest, but is new to the reader
        store.insert([example(50), example(103)])
        seen += [next(following).request_id for _ in range(2)]
        assert seen == [example(number).request_id for number in (100, 102, 50, 103)]
        stop.set()
        assert list(following) == []

    def test_following_an_empty_ledger_waits_for_its_first_request(self, store: Store, reader: LedgerReader) -> None:
        following = reader.follow(5, poll_s=0.001)
        threading.Timer(0.05, store.insert, [[ACCEPTED]]).start()
        assert next(following) == ACCEPTED


def test_prefill_speed_from_the_databases_sums_is_that_of_the_rows(store: Store, reader: LedgerReader) -> None:
    records, fit = [], PrefillFit()
    for number in range(60):
        usage = Usage(input_tokens=10 + number * 7 % 50, cached_tokens=number % 9, output_tokens=1 + number * 3 % 11)
        engine_s = 0.1 + 0.002 * (usage.input_tokens - number % 9) + 0.03 * usage.output_tokens
        draft = ACCEPTED.attempts[1].model_copy(update={"usage": usage, "engine_s": engine_s})
        unmeasured = draft.model_copy(update={"engine_s": None})
        records.append(example(number).model_copy(update={"attempts": (draft, unmeasured, *ESCALATED.attempts[2:])}))
        fit.add(records[-1])
    store.insert(records)
    (found,) = reader.prefill()
    (expected,) = fit.speeds()
    assert found.s_per_token == pytest.approx(0.002)
    assert found.s_per_token == pytest.approx(expected.s_per_token, rel=1e-12)
    assert found.n_attempts == expected.n_attempts == 60
    assert reader.prefill(tenant="nobody") == ()


class TestTotals:
    def test_sums_by_hand(self, store: Store, reader: LedgerReader) -> None:
        store.insert(EXAMPLES)
        totals = reader.totals()
        assert totals.requests == 3
        assert totals.outcomes == {RequestOutcome.OK: 2, RequestOutcome.ERROR: 1}
        assert totals.served == {Tier.TIER1: 1, Tier.FRONTIER: 1}
        assert (totals.drafts_judged, totals.drafts_rejected) == (2, 1)
        assert totals.input_tokens == 2 * 180 + 2 * 160 + 171
        assert totals.output_tokens == 2 * 1 + 2 * 48 + 60
        assert totals.cost_usd_by_kind == {
            AttemptKind.ROUTER: pytest.approx(2 * 0.0000003),
            AttemptKind.DRAFT: pytest.approx(2 * 0.00012),
            AttemptKind.FRONTIER: pytest.approx(0.0014),
        }
        assert totals.cost_usd == pytest.approx(0.0016406)
        assert totals.wasted_usd == pytest.approx(0.00012)  # the rejected draft
        assert totals.baseline_cost_usd == pytest.approx(0.0023)
        assert (totals.cost_unknown, totals.baseline_unknown) == (1, 1)

    def test_savings_are_signed_and_leave_unknown_costs_out(self, store: Store, reader: LedgerReader) -> None:
        store.insert([ESCALATED, FAILED])
        assert reader.totals().saved_usd == pytest.approx(0.0014 - 0.0015203)

    def test_totals_of_a_range_and_tenant(self, store: Store, reader: LedgerReader) -> None:
        store.insert(EXAMPLES)
        assert reader.totals(tenant="green").requests == 1
        assert reader.totals(until=ESCALATED.at).requests == 1
        assert reader.totals(since="2027-01-01").cost_usd == 0
