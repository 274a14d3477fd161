"""Every request is booked once, without making it wait, whatever happens to the database, the disk or the process."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from routing.records import RequestRecord
from serving.ledger import Ledger, LedgerConfig, LedgerReader
from serving.ledger.lines import to_line
from serving.ledger.spool import SUFFIX
from serving.ledger.store import Store
from serving.ledger.writer_thread import REFUSED_FILE
from tests.serving.ledger.examples import ACCEPTED, ESCALATED, EXAMPLES, FAILED, ROUTER, example
from tests.serving.ledger.postgres import PostgresServer

PATIENCE_S = 20.0
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def config(database: dict[str, Any]) -> LedgerConfig:
    return LedgerConfig(**database, busy_timeout_s=0.02, retry_interval_s=0.02, flush_interval_s=0.01)


def booked(config: LedgerConfig) -> list[RequestRecord]:
    return list(LedgerReader(config).requests())


def until(condition: Callable[[], bool]) -> bool:
    """Whether it came true in time."""
    deadline = time.perf_counter() + PATIENCE_S
    while not condition():
        if time.perf_counter() > deadline:
            return False
        time.sleep(0.005)
    return True


Locked = Callable[[LedgerConfig], AbstractContextManager[None]]


@pytest.fixture
def locked(request: pytest.FixtureRequest) -> Locked:
    """Nobody gets at the database: another process holds SQLite's lock, Postgres lets nobody in."""

    def lock(config: LedgerConfig) -> AbstractContextManager[None]:
        if config.sqlite_path is not None:
            return sqlite_locked(config)
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.closed(config.url)

    return lock


@contextmanager
def sqlite_locked(config: LedgerConfig) -> Iterator[None]:
    """Another process holds the database for itself."""
    assert config.sqlite_path is not None
    config.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
    other = sqlite3.connect(config.sqlite_path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


def spool_files(config: LedgerConfig) -> list[Path]:
    return sorted(config.spool_path.glob(f"*{SUFFIX}"))


class TestRecord:
    def test_every_recorded_request_is_in_the_database_after_a_flush(self, config: LedgerConfig) -> None:
        with Ledger(config) as ledger:
            for record in EXAMPLES:
                ledger.record(record)
            assert ledger.flush(PATIENCE_S)
            assert booked(config) == list(EXAMPLES)
            assert ledger.counts.written == 3

    def test_closing_writes_what_waits(self, config: LedgerConfig) -> None:
        with Ledger(config) as ledger:
            for number in range(1000):
                ledger.record(example(number))
        assert len(booked(config)) == 1000
        assert spool_files(config) == []

    def test_same_request_recorded_twice_is_booked_once(self, config: LedgerConfig) -> None:
        with Ledger(config) as ledger:
            ledger.record(ACCEPTED)
            assert ledger.flush(PATIENCE_S)
            ledger.record(ACCEPTED)
        assert booked(config) == [ACCEPTED]

    def test_many_threads_and_an_event_loop_may_record_at_once(self, config: LedgerConfig) -> None:
        async def from_the_loop(ledger: Ledger) -> None:
            async def one(number: int) -> None:
                await asyncio.sleep(0)
                ledger.record(example(number))

            async with asyncio.TaskGroup() as tasks:
                for number in range(200):
                    tasks.create_task(one(number))

        def from_a_thread(ledger: Ledger, first: int) -> None:
            for number in range(first, first + 200):
                ledger.record(example(number))

        with Ledger(config) as ledger:
            threads = [threading.Thread(target=from_a_thread, args=(ledger, first)) for first in (200, 400, 600)]
            for thread in threads:
                thread.start()
            asyncio.run(from_the_loop(ledger))
            for thread in threads:
                thread.join(PATIENCE_S)
        assert len(booked(config)) == 800

    @pytest.mark.sqlite_only
    def test_full_queue_goes_to_the_spool_and_from_there_to_the_database(
        self, config: LedgerConfig, locked: Locked
    ) -> None:
        with locked(config), Ledger(config.model_copy(update={"queue_size": 1, "busy_timeout_s": 0.5})) as ledger:
            for number in range(100):
                ledger.record(example(number))
            assert ledger.counts.spooled >= 90
        with Ledger(config) as ledger:
            assert until(lambda: ledger.spool_bytes == 0 and ledger.is_up)
        assert booked(config) == [example(number) for number in range(100)]

    def test_recording_after_closing_is_kept_for_the_next_start(self, config: LedgerConfig) -> None:
        with Ledger(config) as ledger:
            assert ledger.wait_up(PATIENCE_S)
        ledger.record(ACCEPTED)
        assert [path.read_bytes() for path in spool_files(config)] == [to_line(ACCEPTED) + b"\n"]

    @pytest.mark.sqlite_only
    def test_record_raises_nothing_even_with_no_place_left(self, config: LedgerConfig, tmp_path: Path) -> None:
        """Database away, spool not writable, memory full: counted, never raised."""
        (tmp_path / "file").touch()
        nowhere = config.model_copy(
            update={
                "url": f"sqlite:///{tmp_path}/file/l.sqlite3",
                "spool_dir": f"{tmp_path}/file/spool",
                "queue_size": 5,
            }
        )
        ledger = Ledger(nowhere)
        for number in range(50):
            ledger.record(example(number))
        assert ledger.flush(PATIENCE_S) is False
        assert ledger.close(PATIENCE_S)
        assert ledger.counts.lost == 50


class TestDatabaseAway:
    def test_locked_database_loses_nothing_and_writes_nothing_twice(self, config: LedgerConfig, locked: Locked) -> None:
        """Ledger DB locked. Nothing lost after recovery."""
        with Ledger(config) as ledger:
            assert ledger.wait_up(PATIENCE_S)
            ledger.record(example(0))
            assert ledger.flush(PATIENCE_S)
            with locked(config):
                for number in range(1, 300):
                    ledger.record(example(number))
                assert ledger.flush(PATIENCE_S)
                assert not ledger.is_up
                assert ledger.counts.spooled == 299
            assert until(lambda: ledger.is_up and ledger.spool_bytes == 0)
            ledger.record(example(300))
        assert booked(config) == [example(number) for number in range(301)]
        assert ledger.counts.replayed == 299
        assert spool_files(config) == []

    @pytest.mark.sqlite_only
    def test_database_that_is_away_at_the_start_is_made_when_it_can_be(
        self, tmp_path: Path, config: LedgerConfig
    ) -> None:
        (tmp_path / "var").touch()  # a file where a folder should be
        config = config.model_copy(update={"url": f"sqlite:///{tmp_path}/var/l.sqlite3", "spool_dir": f"{tmp_path}/s"})
        with Ledger(config) as ledger:
            ledger.record(ACCEPTED)
            assert ledger.flush(PATIENCE_S)
            assert ledger.ready()
            assert not ledger.is_up
            (tmp_path / "var").unlink()
            assert ledger.wait_up(PATIENCE_S)
        assert booked(config) == [ACCEPTED]

    def test_refusing_ledger_is_not_ready_while_the_database_is_away(
        self, config: LedgerConfig, locked: Locked
    ) -> None:
        with Ledger(config.model_copy(update={"on_failure": "refuse"})) as ledger:
            assert ledger.wait_up(PATIENCE_S)
            assert ledger.ready()
            with locked(config):
                ledger.record(ACCEPTED)
                assert ledger.flush(PATIENCE_S)
                assert not ledger.ready()
            assert until(ledger.ready)
        assert booked(config) == [ACCEPTED]

    def test_recovery_is_noticed_without_new_requests(self, config: LedgerConfig, locked: Locked) -> None:
        """A stack that refuses gets no rows that could show it."""
        with ExitStack() as lock:
            lock.enter_context(locked(config))
            with Ledger(config.model_copy(update={"on_failure": "refuse"})) as ledger:
                assert not ledger.wait_up(0.1)
                assert not ledger.ready()
                lock.close()
                assert ledger.wait_up(PATIENCE_S)
                assert ledger.ready()

    def test_rows_neither_database_nor_disk_takes_wait_in_memory(
        self, tmp_path: Path, config: LedgerConfig, locked: Locked
    ) -> None:
        (tmp_path / "s").touch()
        config = config.model_copy(update={"spool_dir": f"{tmp_path}/s"})
        with Ledger(config) as ledger:
            assert ledger.wait_up(PATIENCE_S)
            with locked(config):
                ledger.record(ACCEPTED)
                assert ledger.flush(PATIENCE_S) is False
            assert until(lambda: ledger.is_up)
            ledger.record(ESCALATED)
        assert booked(config) == [ACCEPTED, ESCALATED]
        assert ledger.counts.lost == 0

    def test_new_rows_do_not_wait_for_a_long_backlog(self, config: LedgerConfig, locked: Locked) -> None:
        with locked(config), Ledger(config) as ledger:
            for number in range(2000):
                ledger.record(example(number))
            ledger.flush(PATIENCE_S)
        with Ledger(config.model_copy(update={"batch_size": 1})) as ledger:
            assert ledger.wait_up(PATIENCE_S)
            ledger.record(FAILED)
            assert ledger.flush(PATIENCE_S)
            assert ledger.spool_bytes > 0
            assert FAILED in LedgerReader(config).latest(1)

    @pytest.mark.sqlite_only
    def test_schema_of_a_newer_release_is_not_written_to(self, config: LedgerConfig) -> None:
        store = Store(config)
        store.migrate()
        store.dispose()
        assert config.sqlite_path is not None
        with sqlite3.connect(config.sqlite_path) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
        with Ledger(config) as ledger:
            ledger.record(ACCEPTED)
            assert ledger.flush(PATIENCE_S)
            assert not ledger.is_up
        assert booked(config) == []
        assert len(spool_files(config)) == 1


class TestRefusedRows:
    def test_row_the_database_will_never_take_does_not_stop_the_others(self, config: LedgerConfig) -> None:
        bad = ACCEPTED.model_copy(
            update={"request_id": "bad", "attempts": (ROUTER.model_copy(update={"model": "\ud800"}),)}
        )
        with Ledger(config) as ledger:
            for record in (example(0), bad, example(1)):
                ledger.record(record)
        assert booked(config) == [example(0), example(1)]
        assert (ledger.counts.written, ledger.counts.refused, ledger.counts.lost) == (2, 1, 0)
        kept = json.loads((config.spool_path / REFUSED_FILE).read_text())
        assert kept["record"]["request_id"] == "bad"

    def test_line_cut_off_by_the_death_of_its_writer_is_kept_aside(self, config: LedgerConfig) -> None:
        config.spool_path.mkdir(parents=True)
        whole = ACCEPTED.model_dump_json()
        (config.spool_path / f"0{SUFFIX}").write_text(f"{whole}\n{whole[:50]}")
        with Ledger(config) as ledger:
            assert until(lambda: ledger.is_up and ledger.spool_bytes == 0)
        assert booked(config) == [ACCEPTED]
        assert ledger.counts.refused == 1
        assert json.loads((config.spool_path / REFUSED_FILE).read_text())["line"] == whole[:50]


class TestUnknownPrice:
    def test_alarm_is_raised_once_per_model_and_interval(self, config: LedgerConfig) -> None:
        """Price missing: null and an alarm."""
        alarms: list[tuple[str, str]] = []
        ledger = Ledger(config, on_unknown_price=lambda provider, model: alarms.append((provider, model)))
        with ledger:
            for number in range(3):
                ledger.record(FAILED.model_copy(update={"request_id": str(number)}))
            other = FAILED.attempts[0].model_copy(update={"model": "larger"})
            ledger.record(FAILED.model_copy(update={"request_id": "other", "attempts": (other,)}))
        assert alarms == [("acme", "large"), ("acme", "larger")]
        assert ledger.counts.unknown_prices == 4
        assert [record.cost_usd for record in booked(config)] == [None] * 4

    def test_alarm_is_repeated_after_the_interval(self, config: LedgerConfig) -> None:
        alarms: list[str] = []
        restless = config.model_copy(update={"unknown_price_interval_s": 0.0})
        with Ledger(restless, on_unknown_price=lambda _provider, model: alarms.append(model)) as ledger:
            for number in range(2):
                ledger.record(FAILED.model_copy(update={"request_id": str(number)}))
        assert alarms == ["large", "large"]

    def test_known_price_with_unmeasured_use_is_no_alarm(self, config: LedgerConfig) -> None:
        cut_short = FAILED.attempts[0].model_copy(update={"price_source": "list (2026-01-31)"})
        with Ledger(config) as ledger:
            ledger.record(FAILED.model_copy(update={"attempts": (cut_short,)}))
        assert ledger.counts.unknown_prices == 0

    def test_hook_that_fails_costs_no_row(self, config: LedgerConfig) -> None:
        def fail(provider: str, model: str) -> None:
            raise RuntimeError(provider, model)

        with Ledger(config, on_unknown_price=fail) as ledger:
            ledger.record(FAILED)
            ledger.record(ACCEPTED)
            assert until(lambda: ledger.counts.written == 2)
        assert booked(config) == [ACCEPTED, FAILED]


class Child:
    """A process that books requests (tests/serving/ledger/child.py)."""

    def __init__(self, config: LedgerConfig, first: int, count: int, **order: Any) -> None:
        arguments = json.dumps({"config": config.model_dump(), "first": first, "count": count, **order})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.ledger.child", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        return said

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0


class TestProcesses:
    def test_killed_process_loses_no_settled_row(self, config: LedgerConfig) -> None:
        child = Child(config, first=0, count=500)
        child.tell()
        assert child.hear()["settled"]
        child.kill()
        assert booked(config) == [example(number) for number in range(500)]

    def test_rows_a_killed_process_had_spooled_are_booked_by_the_next(
        self, config: LedgerConfig, locked: Locked
    ) -> None:
        """Nothing lost after recovery, not even with the process."""
        with locked(config):
            child = Child(config, first=0, count=500, database_away=True)
            child.tell()
            assert child.hear()["counts"]["spooled"] == 500
            child.kill()
        with Ledger(config) as ledger:
            assert until(lambda: ledger.is_up and ledger.spool_bytes == 0)
            assert ledger.counts.replayed == 500
        assert booked(config) == [example(number) for number in range(500)]
        assert spool_files(config) == []

    def test_two_processes_book_into_one_database(self, config: LedgerConfig) -> None:
        patient = config.model_copy(update={"busy_timeout_s": 5.0})
        children = [Child(patient, first, 500) for first in (0, 500)]
        for child in children:
            child.tell()
        for child in children:
            assert child.hear()["settled"]
            child.end()
        assert booked(config) == [example(number) for number in range(1000)]

    @pytest.mark.sqlite_only
    def test_full_disk_loses_nothing_once_there_is_room_again(self, config: LedgerConfig) -> None:
        """Disk full, for the database and for the spool."""
        child = Child(config, first=0, count=2000, file_limit_bytes=400_000)
        child.tell()
        counts = child.hear()["counts"]
        assert counts["up"] == 0
        assert 0 < counts["written"] < 2000
        child.tell()
        assert child.hear()["up"]
        child.end()
        assert booked(config) == [example(number) for number in range(2000)]
