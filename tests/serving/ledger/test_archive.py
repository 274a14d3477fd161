"""Old rows leave the ledger with their attempts, once, and only when they are safe in the archive, if one is kept."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from routing.records import RequestRecord
from serving.ledger import Ledger, LedgerConfig, LedgerReader
from serving.ledger.archive import Archive
from serving.ledger.lines import from_line
from serving.ledger.store import StorageDown, Store
from serving.ledger.tables import attempts
from tests.serving.ledger.examples import EXAMPLES, START, example

DAY = timedelta(days=1)
PATIENCE_S = 20.0


def dated(number: int, at: datetime) -> RequestRecord:
    return example(number).model_copy(update={"at": at.isoformat(timespec="microseconds")})


@pytest.fixture
def config(database: dict[str, Any]) -> LedgerConfig:
    return LedgerConfig(**database, busy_timeout_s=0.05, flush_interval_s=0.01)


@pytest.fixture
def store(config: LedgerConfig) -> Iterator[Store]:
    store = Store(config)
    store.migrate()
    yield store
    store.dispose()


def kept(config: LedgerConfig) -> list[str]:
    return [record.request_id for record in LedgerReader(config).requests()]


def archived(folder: Path) -> dict[str, list[RequestRecord]]:
    return {
        path.stem: [from_line(line) for line in path.read_bytes().splitlines()] for path in sorted(folder.iterdir())
    }


def until(condition: Any) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.005)


def test_only_what_began_before_the_instant_is_deleted_and_its_attempts_with_it(
    store: Store, config: LedgerConfig
) -> None:
    rows = [dated(n, START + n * DAY) for n in range(4)]
    store.insert(rows)
    assert store.prune(START + 2 * DAY, 100) == 2
    assert kept(config) == [row.request_id for row in rows[2:]]
    with store._engine.begin() as connection:
        left = connection.execute(select(func.count()).select_from(attempts)).scalar_one()
    assert left == sum(len(row.attempts) for row in rows[2:])


def test_the_oldest_go_first_and_no_more_than_asked_for(store: Store, config: LedgerConfig) -> None:
    rows = [dated(n, START + n * DAY) for n in range(5)]
    store.insert(rows[::-1])
    assert [store.prune(START + 9 * DAY, 2) for _ in range(4)] == [2, 2, 1, 0]
    assert kept(config) == []


def test_archive_holds_what_was_booked_in_a_file_of_its_day(store: Store, config: LedgerConfig, tmp_path: Path) -> None:
    store.insert(EXAMPLES)
    booked = list(LedgerReader(config).requests())
    store.prune(START + 99 * DAY, 100, Archive(tmp_path / "archive"))
    found = archived(tmp_path / "archive")
    assert [row for rows in found.values() for row in rows] == booked
    assert all(row.at.startswith(day) for day, rows in found.items() for row in rows)


def test_a_day_is_added_to_and_readable_by_the_owner_alone(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    for number in (0, 1):
        archive.append([dated(number, START + timedelta(hours=number))])
    archive.append([dated(2, START + DAY)])
    assert {day: len(rows) for day, rows in archived(tmp_path / "archive").items()} == {
        "2026-03-01": 2,
        "2026-03-02": 1,
    }
    assert {oct(path.stat().st_mode & 0o777) for path in (tmp_path / "archive").iterdir()} == {"0o600"}


def test_nothing_is_deleted_when_the_archive_cannot_be_written(
    store: Store, config: LedgerConfig, tmp_path: Path
) -> None:
    (tmp_path / "archive").write_text("a file, where a folder is wanted")
    store.insert(EXAMPLES)
    with pytest.raises(OSError, match="archive"):
        store.prune(START + 99 * DAY, 100, Archive(tmp_path / "archive"))
    assert len(kept(config)) == len(EXAMPLES)


def test_a_database_that_is_away_is_named(database: dict[str, Any]) -> None:
    store = Store(LedgerConfig(**database))
    with pytest.raises(StorageDown):
        store.prune(START, 1)
    store.dispose()


def test_writer_deletes_old_rows_in_batches_and_keeps_new_ones(config: LedgerConfig, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    settings = {"retention_days": 30, "archive_dir": str(tmp_path / "archive"), "batch_size": 3}
    old = [dated(n, now - 31 * DAY - timedelta(seconds=n)) for n in range(8)]
    new = [dated(n, now - 29 * DAY) for n in (8, 9)]
    with Ledger(config) as ledger:
        for row in (*old, *new):
            ledger.record(row)
    with Ledger(config.model_copy(update=settings)) as ledger:
        until(lambda: ledger.counts.pruned == 8)
        ledger.record(dated(10, now))
        assert ledger.flush()
        assert ledger.counts.pruned == 8
    assert sorted(kept(config)) == sorted([*(row.request_id for row in new), example(10).request_id])
    assert sum(len(rows) for rows in archived(tmp_path / "archive").values()) == 8


def test_without_an_age_nothing_is_deleted(config: LedgerConfig) -> None:
    with Ledger(config) as ledger:
        ledger.record(dated(0, START))
        assert ledger.flush()
        ledger.record(dated(1, START))
        assert ledger.flush()
        assert ledger.counts.pruned == 0
    assert len(kept(config)) == 2


def test_booking_goes_on_when_the_archive_cannot_be_written(config: LedgerConfig, tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file, where a folder is wanted")
    settings = {"retention_days": 30, "archive_dir": str(tmp_path / "archive")}
    with Ledger(config.model_copy(update=settings)) as ledger:
        for number in range(3):
            ledger.record(dated(number, START))
            assert ledger.flush()
        assert ledger.is_up
    assert len(kept(config)) == 3


def test_two_processes_delete_each_row_once(config: LedgerConfig, tmp_path: Path) -> None:
    settings = {"retention_days": 30, "archive_dir": str(tmp_path / "archive"), "batch_size": 5}
    with Ledger(config) as ledger:
        for number in range(60):
            ledger.record(dated(number, START + timedelta(seconds=number)))
    both = config.model_copy(update=settings)
    with Ledger(both) as one, Ledger(both) as other:
        until(lambda: one.counts.pruned + other.counts.pruned == 60)
    ids = [row.request_id for rows in archived(tmp_path / "archive").values() for row in rows]
    assert len(ids) == len(set(ids)) == 60


def test_an_archive_without_an_age_is_refused(database: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set retention_days"):
        LedgerConfig(**database, archive_dir="archive")
