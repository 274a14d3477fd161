"""The ledger's tests run against both databases: SQLite, and a real Postgres server where it is installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.ledger.postgres import PostgresServer, postgres_server

POSTGRES = pytest.param("postgres", marks=pytest.mark.slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test that asks for `database` runs once per database, unless it is about SQLite."""
    if "database" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("sqlite_only")
        metafunc.parametrize("database", ["sqlite"] if only else ["sqlite", POSTGRES], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The fields of a LedgerConfig that say where an empty database is."""
    if request.param == "sqlite":
        return {"url": f"sqlite:///{tmp_path}/ledger.sqlite3"}
    server: PostgresServer = request.getfixturevalue("postgres")
    return {"url": server.new_database(), "spool_dir": f"{tmp_path}/spool"}
