"""Writes to the ledger's database: SQLite (WAL) on one machine, Postgres in a cluster, through one data layer.

Inserting is idempotent by primary key. A batch that may or may not have been committed is written again.
"""

import sqlite3
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy import Connection, Engine, Executable, Table, create_engine, delete, event, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from routing.records import RequestRecord
from serving.errors import ConfigInvalid
from serving.ledger.archive import Archive
from serving.ledger.config import LedgerConfig
from serving.ledger.rows import attempt_rows, record_from_rows, request_row
from serving.ledger.tables import attempts, requests

CONNECT_TIMEOUT_S = 5
SILENCE_S = 30
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 0x7469657277697365  # "tierwise" as a number, which no other user of the database takes
_MIGRATING = threading.Lock()  # alembic keeps its context in module globals
_BAD_ROW = (DataError, IntegrityError, ValueError, TypeError, OverflowError)


class StorageDown(Exception):
    """The database cannot take rows now: away, locked, full or damaged. The same rows may go in later."""


class RowRefused(Exception):
    """The database is fine, but it will never take one of these rows."""


def open_engine(config: LedgerConfig, *, read_only: bool = False) -> Engine:
    """An engine for the ledger's database, which connects on first use. Raises ConfigInvalid for a missing driver."""
    if config.sqlite_path is None:
        try:
            return create_engine(
                config.url, pool_pre_ping=True, pool_size=2, connect_args=postgres_patience(config, read_only)
            )
        except ModuleNotFoundError as error:
            raise ConfigInvalid(f"{config.url} needs the package psycopg: pip install 'psycopg[binary]'") from error
    engine = create_engine(config.url, connect_args={"timeout": config.busy_timeout_s, "check_same_thread": False})
    # sqlite3 opens transactions by its own rules and leaves DDL out of them, so we send BEGIN ourselves. Writers take
    # the write lock at once, so that two processes queue for it instead of failing half-way.
    begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA journal_mode=WAL")
        # With WAL a killed process loses nothing, and a power cut loses the last moments.
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def postgres_patience(config: LedgerConfig, read_only: bool) -> dict[str, str | int]:
    """libpq's time limits. A server that hangs, a locked table or a cut cable must not block the writer.

    Readers have no statement limit and can only read.
    """
    lock_ms = max(1, int(config.busy_timeout_s * 1000))
    writer = f"-c lock_timeout={lock_ms} -c statement_timeout={SILENCE_S * 1000}"
    return {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "tcp_user_timeout": SILENCE_S * 1000,
        "options": "-c default_transaction_read_only=on" if read_only else writer,
    }


def migrations(connection: Connection) -> AlembicConfig:
    """Alembic's configuration for this connection, without an ini file."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def insert_new(table: Table, dialect_name: str) -> Executable:
    """An INSERT that skips rows whose primary key is there already."""
    if dialect_name == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))


class Store:
    """Writes rows. Used by one thread at a time."""

    def __init__(self, config: LedgerConfig) -> None:
        self._path = config.sqlite_path
        self._engine = open_engine(config)
        self._insert_requests = insert_new(requests, self._engine.dialect.name)
        self._insert_attempts = insert_new(attempts, self._engine.dialect.name)

    def migrate(self, revision: str = "head") -> None:
        """Create or upgrade the schema. Processes that start together take turns. Raises StorageDown."""
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            with _MIGRATING, self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                command.upgrade(migrations(connection), revision)
        except Exception as error:  # alembic raises its own kinds too, e.g. for a schema newer than this code
            raise StorageDown(reason_of(error)) from error

    def probe(self) -> None:
        """Reach the tables. Raises StorageDown."""
        try:
            with self._engine.begin() as connection:
                connection.execute(select(requests.c.request_id).limit(1))
        except Exception as error:
            raise StorageDown(reason_of(error)) from error

    def insert(self, records: Sequence[RequestRecord]) -> None:
        """Write these requests and their attempts in one transaction, all or none. Rows already there stay as they are.

        Raises StorageDown when the database cannot take rows, RowRefused when it cannot take one of these.
        """
        try:
            request_rows = [request_row(record) for record in records]
            all_attempts = [row for record in records for row in attempt_rows(record)]
            with self._engine.begin() as connection:
                if request_rows:
                    connection.execute(self._insert_requests, request_rows)
                if all_attempts:
                    connection.execute(self._insert_attempts, all_attempts)
        except Exception as error:
            bound_badly = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
            if bound_badly or isinstance(error, _BAD_ROW):
                raise RowRefused(reason_of(error)) from error
            raise StorageDown(reason_of(error)) from error

    def prune(self, before: datetime, limit: int, archive: Archive | None = None) -> int:
        """Delete the oldest requests that began before an instant, at most `limit`, with attempts. Returns how many.

        They are in the archive before they are deleted. Several processes take different rows.
        Raises StorageDown, and OSError when the archive cannot be written. Nothing is deleted then.
        """
        oldest = select(requests).where(requests.c.at < before).order_by(requests.c.at, requests.c.request_id)
        try:
            with self._engine.begin() as connection:
                found = connection.execute(oldest.limit(limit).with_for_update(skip_locked=True))
                rows = [row._asdict() for row in found]
                ids = [row["request_id"] for row in rows]
                if archive is not None and rows:
                    archive.append(self._with_attempts(connection, rows))
                if rows:
                    connection.execute(delete(requests).where(requests.c.request_id.in_(ids)))
                return len(rows)
        except OSError:
            raise
        except Exception as error:
            raise StorageDown(reason_of(error)) from error

    @staticmethod
    def _with_attempts(connection: Connection, rows: Sequence[dict[str, Any]]) -> list[RequestRecord]:
        """The requests as they were booked, in the same order."""
        tried: dict[str, list[dict[str, Any]]] = {row["request_id"]: [] for row in rows}
        query = select(attempts).where(attempts.c.request_id.in_(list(tried))).order_by(attempts.c.ordinal)
        for attempt in connection.execute(query):
            tried[attempt.request_id].append(attempt._asdict())
        return [record_from_rows(row, tried[row["request_id"]]) for row in rows]

    def dispose(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def reason_of(error: BaseException) -> str:
    """One line without the statement's parameters, which hold users' data."""
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    first_line = (str(cause).splitlines() or [""])[0]
    return f"{type(cause).__name__}: {first_line}"
