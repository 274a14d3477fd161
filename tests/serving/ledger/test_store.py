"""The database holds what was booked, once. Its schema becomes the code's from any earlier one."""

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from hypothesis import HealthCheck, given, settings
from sqlalchemy import MetaData, inspect, text
from sqlalchemy.dialects import postgresql

from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.ledger.rows import attempt_rows, request_row
from serving.ledger.store import RowRefused, StorageDown, Store, insert_new, migrations, open_engine
from serving.ledger.tables import attempts, metadata, requests
from tests.serving.ledger.examples import ACCEPTED, EXAMPLES, ROUTER
from tests.serving.ledger.records import anything

OLDEST = "requests_and_attempts"
# The ledger outlives an example, and the test runs once per database.
SHARED_FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]


@pytest.fixture
def config(database: dict[str, Any]) -> LedgerConfig:
    return LedgerConfig(**database, busy_timeout_s=0.05)


@pytest.fixture
def store(config: LedgerConfig) -> Iterator[Store]:
    store = Store(config)
    store.migrate()
    yield store
    store.dispose()


def stored(config: LedgerConfig) -> list[RequestRecord]:
    return list(LedgerReader(config).requests())


class TestInsert:
    def test_what_was_booked_is_read_back_equal(self, store: Store, config: LedgerConfig) -> None:
        store.insert(EXAMPLES)
        assert stored(config) == list(EXAMPLES)

    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(record=anything)
    def test_any_record_is_read_back_equal(self, store: Store, config: LedgerConfig, record: RequestRecord) -> None:
        record = record.model_copy(update={"request_id": uuid.uuid4().hex})  # the ledger outlives an example
        try:
            store.insert([record])
        except RowRefused:  # Postgres has no text with a NUL: the row is kept aside
            assert config.sqlite_path is None
            assert "\\u0000" in record.model_dump_json()
            return
        assert record in stored(config)

    def test_writing_a_batch_again_changes_nothing(self, store: Store, config: LedgerConfig) -> None:
        store.insert(EXAMPLES[:2])
        store.insert(EXAMPLES)
        store.insert(EXAMPLES)
        assert stored(config) == list(EXAMPLES)

    def test_batch_with_a_row_the_database_refuses_leaves_nothing_behind(
        self, store: Store, config: LedgerConfig
    ) -> None:
        bad = ACCEPTED.model_copy(
            update={"request_id": "bad", "attempts": (ROUTER.model_copy(update={"model": "\ud800"}),)}
        )
        with pytest.raises(RowRefused):
            store.insert([ACCEPTED, bad])
        assert stored(config) == []

    @pytest.mark.parametrize("at", ["yesterday", "2026-03-01T12:00:00"])
    def test_row_without_a_definite_time_is_refused_for_good(self, store: Store, at: str) -> None:
        with pytest.raises(RowRefused):
            store.insert([ACCEPTED.model_copy(update={"at": at})])

    def test_number_beyond_the_database_is_refused_for_good(self, store: Store) -> None:
        with pytest.raises(RowRefused):
            store.insert([ACCEPTED.model_copy(update={"status": 2**70})])

    def test_refusal_does_not_repeat_what_the_user_wrote(self, store: Store) -> None:
        """No users' data in error text."""
        secret = ACCEPTED.model_copy(update={"session_id": "sk-secret", "at": "never"})
        with pytest.raises(RowRefused) as refused:
            store.insert([secret])
        assert "sk-secret" not in str(refused.value)

    @pytest.mark.sqlite_only
    def test_locked_database_is_down_not_broken(self, store: Store, config: LedgerConfig) -> None:
        assert config.sqlite_path is not None
        with sqlite3.connect(config.sqlite_path, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StorageDown, match="locked"):
                store.insert([ACCEPTED])
            other.execute("ROLLBACK")
        store.insert([ACCEPTED])
        assert stored(config) == [ACCEPTED]

    def test_damaged_file_is_down(self, tmp_path: Path) -> None:
        (tmp_path / "l.sqlite3").write_bytes(b"this is no database" * 1000)
        with pytest.raises(StorageDown):
            Store(LedgerConfig(url=f"sqlite:///{tmp_path}/l.sqlite3")).migrate()

    def test_readers_do_not_wait_for_a_writer(self, store: Store, config: LedgerConfig) -> None:
        store.insert([ACCEPTED])
        engine = open_engine(config)
        with engine.begin() as writing:
            writing.execute(text("UPDATE requests SET tenant = 'other'"))
            assert stored(config) == [ACCEPTED]
        engine.dispose()

    @pytest.mark.sqlite_only
    def test_writers_queue_for_the_lock_when_they_begin_not_half_way(self, store: Store, config: LedgerConfig) -> None:
        engine = open_engine(config)
        with engine.begin(), pytest.raises(StorageDown, match="locked"):
            store.insert([ACCEPTED])
        engine.dispose()

    def test_reader_cannot_write(self, store: Store, config: LedgerConfig) -> None:
        engine = open_engine(config, read_only=True)
        with pytest.raises(Exception, match=r"read-?only"), engine.begin() as reading:
            reading.execute(text("DELETE FROM requests"))
        engine.dispose()


def insert_as_then(config: LedgerConfig, records: Sequence[RequestRecord]) -> None:
    """Insert with the columns that the schema has now, as the release that made it did."""
    engine = open_engine(config)
    with engine.begin() as connection:
        old = MetaData()
        old.reflect(connection, only=["requests", "attempts"])
        for name, rows in (
            ("requests", [request_row(record) for record in records]),
            ("attempts", [row for record in records for row in attempt_rows(record)]),
        ):
            table = old.tables[name]
            at = {"at": datetime.fromisoformat} if name == "requests" else {}
            for row in rows:
                values = {k: at.get(k, lambda v: v)(v) for k, v in row.items() if k in table.columns}
                connection.execute(table.insert().values(values))
    engine.dispose()


class TestSchema:
    def test_empty_database_gets_the_schema_of_the_code(self, store: Store, config: LedgerConfig) -> None:
        assert schema_difference(config) == []

    def test_migrating_again_changes_nothing(self, store: Store, config: LedgerConfig) -> None:
        store.insert([ACCEPTED])
        store.migrate()
        assert stored(config) == [ACCEPTED]

    def test_previous_schema_is_upgraded_and_keeps_its_rows(self, config: LedgerConfig) -> None:
        store = Store(config)
        store.migrate(OLDEST)
        assert schema_difference(config) != []
        insert_as_then(config, EXAMPLES)
        store.migrate()
        assert schema_difference(config) == []
        # what the oldest schema had no column for was not written down then
        unknown = [a.model_copy(update={"replica_choice": None}) for r in EXAMPLES for a in r.attempts]
        assert [a for r in stored(config) for a in r.attempts] == unknown
        assert [r.model_copy(update={"attempts": ()}) for r in stored(config)] == [
            r.model_copy(update={"attempts": ()}) for r in EXAMPLES
        ]
        store.dispose()

    def test_schema_newer_than_the_code_is_down_so_that_rows_wait(self, store: Store, config: LedgerConfig) -> None:
        """A release that is rolled back must not write into columns it does not know."""
        engine = open_engine(config)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'from_the_future'"))
        engine.dispose()
        with pytest.raises(StorageDown, match="from_the_future"):
            store.migrate()

    def test_migration_that_fails_half_way_leaves_the_old_schema(self, config: LedgerConfig) -> None:
        store = Store(config)
        store.migrate(OLDEST)
        engine = open_engine(config)
        with engine.begin() as connection:  # the second of the two indexes is in the way
            connection.execute(text("CREATE INDEX ix_requests_tenant_at ON requests (tenant)"))
        with pytest.raises(StorageDown, match="already exists"):
            store.migrate()
        assert {index["name"] for index in inspect(engine).get_indexes("requests")} == {"ix_requests_tenant_at"}
        engine.dispose()
        store.dispose()

    @pytest.mark.sqlite_only
    def test_range_of_a_tenant_reads_its_index_only(self, store: Store, config: LedgerConfig) -> None:
        engine = open_engine(config, read_only=True)
        with engine.connect() as connection:
            plan = connection.execute(
                text(
                    "EXPLAIN QUERY PLAN SELECT * FROM requests WHERE tenant='t' AND at>='2026' ORDER BY at, request_id"
                )
            ).all()
        engine.dispose()
        assert len(plan) == 1
        assert "USING INDEX ix_requests_tenant_at" in plan[0][3]


class TestPostgres:
    """No server here: what would be sent to one."""

    def test_revisions_build_its_tables(self) -> None:
        out = StringIO()
        context = MigrationContext.configure(
            dialect_name="postgresql", opts={"as_sql": True, "output_buffer": out, "target_metadata": metadata}
        )
        with Operations.context(context):
            for revision in reversed(list(scripts().walk_revisions())):
                revision.module.upgrade()
        sql = out.getvalue()
        assert "at TIMESTAMP WITH TIME ZONE NOT NULL" in sql
        assert "cost_usd DOUBLE PRECISION" in sql
        assert "FOREIGN KEY(request_id) REFERENCES requests (request_id) ON DELETE CASCADE" in sql
        assert sql.count("CREATE INDEX") == 6

    def test_revision_names_fit_its_version_column(self) -> None:
        assert all(len(revision.revision) <= 32 for revision in scripts().walk_revisions())

    @pytest.mark.parametrize(
        ("table", "row"),
        [(requests, request_row(ACCEPTED)), (attempts, attempt_rows(ACCEPTED)[0])],
        ids=["requests", "attempts"],
    )
    def test_insert_leaves_present_rows_alone(self, table, row) -> None:
        compiled = insert_new(table, "postgresql").compile(dialect=postgresql.dialect(), column_keys=list(row))
        keys = ", ".join(column.name for column in table.primary_key)
        assert str(compiled).endswith(f"ON CONFLICT ({keys}) DO NOTHING")

    def test_instants_are_sent_with_their_time_zone(self) -> None:
        bind = requests.c.at.type.bind_processor(postgresql.dialect())
        sent = requests.c.at.type.process_bind_param("2026-03-01T13:00:00.5+01:00", postgresql.dialect())
        assert bind is not None
        assert sent is not None
        assert sent.isoformat() == "2026-03-01T12:00:00.500000+00:00"
        assert requests.c.at.type.process_result_value(sent, postgresql.dialect()) == "2026-03-01T12:00:00.500000+00:00"


def scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(migrations(None))  # type: ignore[arg-type]


def schema_difference(config: LedgerConfig) -> list[object]:
    """What `alembic check` would complain about."""
    engine = open_engine(config, read_only=True)
    with engine.connect() as connection:
        difference: list[object] = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()
    return difference
