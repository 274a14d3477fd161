"""Feedback and samples in the ledger's database: written once, counted per tenant, deleted in time."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from routing.learning.samples import Feedback, Grader, Sample, SampleSource
from routing.records import AttemptKind
from serving.ledger.config import LedgerConfig
from serving.ledger.samples import SampleStore
from serving.ledger.store import StorageDown, Store
from tests.serving.ledger.examples import ACCEPTED, FRONTIER

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def sample(request_id: str, tenant: str = "blue", hours: float = 1.0) -> Sample:
    return Sample(
        request_id=request_id,
        at=(DAY + timedelta(hours=hours)).isoformat(timespec="microseconds"),
        tenant=tenant,
        category="chat",
        source=SampleSource.SHADOW,
        messages=({"role": "user", "content": "hello"},),
        response_format={"type": "json_object"},
        tier1_output="one",
        frontier_output="two",
        tier1_quality=0.5,
        frontier_quality=1.0,
        grader=Grader.PAIRWISE,
        config_hash="c0ffee",
    )


def said(request_id: str, tenant: str = "blue", hours: float = 2.0, **fields: object) -> Feedback:
    at = (DAY + timedelta(hours=hours)).isoformat(timespec="microseconds")
    return Feedback.model_validate({"request_id": request_id, "at": at, "tenant": tenant, "rating": 1, **fields})


@pytest.fixture
def config(tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(url=f"sqlite:///{tmp_path}/ledger.sqlite3", busy_timeout_s=0.05)


@pytest.fixture
def samples(config: LedgerConfig) -> Iterator[SampleStore]:
    store = Store(config)
    store.migrate()
    samples = SampleStore(config)
    yield samples
    samples.close()
    store.dispose()


def test_what_was_kept_is_read_back_equal_and_oldest_first(samples: SampleStore) -> None:
    late, early = sample("b", hours=5), sample("a", hours=1)
    samples.put_samples([late, early])
    samples.put_samples([sample("a", tenant="other")])  # there already: left alone
    assert samples.all_samples() == [early, late]
    assert samples.all_samples(since=DAY + timedelta(hours=2)) == [late]
    assert samples.all_samples(until=DAY + timedelta(hours=5)) == [early]


def test_later_feedback_replaces_the_earlier(samples: SampleStore) -> None:
    samples.put_feedback(said("a", hours=1))
    samples.put_feedback(said("a", hours=3, rating=-1, correction="no"))
    assert samples.all_feedback() == [said("a", hours=3, rating=-1, correction="no")]


def test_counts_are_of_one_tenant_since_an_instant(samples: SampleStore) -> None:
    samples.put_samples([sample("a"), sample("b"), sample("c", "green"), sample("d", hours=-1)])
    samples.put_feedback(said("a"))
    assert samples.count_samples("blue", DAY) == 2
    assert samples.count_feedback("blue", DAY) == 1
    assert samples.count_feedback("green", DAY) == 0


def test_old_samples_and_those_of_a_tenant_are_forgotten(samples: SampleStore) -> None:
    samples.put_samples([sample("old", hours=-48), sample("new"), sample("green", "green")])
    samples.put_feedback(said("old", hours=-48))
    assert samples.prune(DAY) == 1
    assert [s.request_id for s in samples.all_samples()] == ["green", "new"]
    assert samples.all_feedback() == []
    assert samples.forget("green") == 1
    assert [s.request_id for s in samples.all_samples()] == ["new"]


def test_spend_of_a_day_is_read_from_the_books(samples: SampleStore, config: LedgerConfig) -> None:
    shadow = FRONTIER.model_copy(update={"kind": AttemptKind.SHADOW, "cost_usd": 0.25})
    unpriced = shadow.model_copy(update={"cost_usd": None, "price_source": None})
    store = Store(config)
    store.insert([ACCEPTED.model_copy(update={"attempts": (*ACCEPTED.attempts, shadow, shadow)})])
    store.insert([ACCEPTED.model_copy(update={"request_id": "other", "attempts": (unpriced,)})])
    store.dispose()
    assert samples.shadow_spend(DAY) == samples.shadow_spend(DAY).model_copy(update={"usd": 0.5, "n_unpriced": 1})
    assert samples.shadow_spend(DAY + timedelta(days=1)).usd == 0


def test_request_is_known_by_its_row(samples: SampleStore, config: LedgerConfig) -> None:
    assert samples.asked(ACCEPTED.request_id) is None
    store = Store(config)
    store.insert([ACCEPTED])
    store.dispose()
    asked = samples.asked(ACCEPTED.request_id)
    assert asked is not None
    assert asked.tenant == ACCEPTED.tenant


def test_missing_ledger_is_down_and_is_not_made(tmp_path: Path) -> None:
    samples = SampleStore(LedgerConfig(url=f"sqlite:///{tmp_path}/none.sqlite3"))
    with pytest.raises(StorageDown, match=r"none\.sqlite3"):
        samples.all_samples()
    assert not (tmp_path / "none.sqlite3").exists()
