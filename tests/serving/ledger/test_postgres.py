"""A real Postgres server that is killed, locked or shared: rows wait and none is lost."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.ledger import Ledger, LedgerConfig, LedgerReader
from serving.ledger.store import Store
from tests.serving.ledger.examples import example
from tests.serving.ledger.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.slow

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that may be killed."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def config(own_server: PostgresServer, tmp_path: Path) -> LedgerConfig:
    return LedgerConfig(
        url=own_server.new_database(), spool_dir=f"{tmp_path}/spool", busy_timeout_s=0.2, retry_interval_s=0.05,
        flush_interval_s=0.01,
    )  # fmt: skip


def booked(config: LedgerConfig) -> list[str]:
    reader = LedgerReader(config)
    try:
        return [record.request_id for record in reader.requests()]
    finally:
        reader.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while not condition():
        assert time.perf_counter() < deadline
        time.sleep(0.02)


def test_server_killed_while_rows_are_written_loses_none_and_doubles_none(
    own_server: PostgresServer, config: LedgerConfig
) -> None:
    """Ledger DB down (kill -9 of the server mid-way). Rows go to the spool and back, exactly once."""
    with Ledger(config) as ledger:
        assert ledger.wait_up(PATIENCE_S)
        half_way = threading.Event()

        def write() -> None:
            for number in range(1500):
                ledger.record(example(number))
                if number == 500:
                    half_way.set()
                time.sleep(0.0005)  # spreads the rows over the time in which the server dies

        writer = threading.Thread(target=write)
        writer.start()
        half_way.wait(PATIENCE_S)
        own_server.kill()
        writer.join(PATIENCE_S)
        assert ledger.flush(PATIENCE_S)
        assert not ledger.is_up
        assert ledger.counts.spooled > 0
        assert ledger.ready()
        own_server.start()
        until(lambda: ledger.is_up and ledger.spool_bytes == 0)
    assert sorted(booked(config)) == sorted(example(number).request_id for number in range(1500))
    assert ledger.counts.lost == 0


def test_table_that_somebody_locks_holds_up_nobody(own_server: PostgresServer, config: LedgerConfig) -> None:
    """Ledger DB locked. The writer gives up after busy_timeout_s and the rows wait on disk."""
    with Ledger(config) as ledger:
        assert ledger.wait_up(PATIENCE_S)
        with own_server.connect(config.url.rsplit("/", 1)[1]) as other:
            other.execute("BEGIN")
            other.execute("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE")
            ledger.record(example(1))
            assert ledger.flush(PATIENCE_S)
            assert ledger.counts.spooled == 1
            other.execute("ROLLBACK")
        until(lambda: ledger.is_up and ledger.spool_bytes == 0)
    assert booked(config) == [example(1).request_id]


def test_processes_that_start_together_make_the_schema_once(config: LedgerConfig) -> None:
    """Several gateway processes start with an empty database."""
    patient = config.model_copy(update={"busy_timeout_s": 20.0})
    failures: list[BaseException] = []

    def migrate() -> None:
        store = Store(patient)
        try:
            store.migrate()
        except BaseException as error:
            failures.append(error)
        store.dispose()

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert failures == []
    assert booked(config) == []
