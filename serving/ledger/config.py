"""Where the ledger is kept, and what happens to requests it cannot book."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from routing.records import Record


class LedgerConfig(Record):
    """The ledger's database, its queue and its spool.

    A recorded row is in the database within flush_interval_s. A process that is killed loses that much at most.
    """

    url: str = Field(
        description="sqlite:///relative/or//absolute/path | postgresql+psycopg://user@host/name, no password"
    )
    on_failure: Literal["serve", "refuse"] = Field(
        "serve", description="database away: keep serving on the spool, or answer 503 ledger_unavailable"
    )
    spool_dir: str | None = Field(
        None,
        description="where rows wait while the database is away, best on another disk; None: beside the SQLite file",
    )
    queue_size: int = Field(10_000, ge=1, description="rows in memory, about 2 kB each; those beyond go to the spool")
    batch_size: int = Field(256, ge=1, description="rows per transaction")
    flush_interval_s: float = Field(0.1, gt=0, le=60, description="longest wait for a batch to fill")
    busy_timeout_s: float = Field(2.0, ge=0, description="how long a write waits for another process's lock")
    retry_interval_s: float = Field(1.0, gt=0, description="pause between tries while the database is away")
    retention_days: float | None = Field(
        None, ge=1, description="requests that began longer ago are deleted, with their attempts; None: kept for ever"
    )
    archive_dir: str | None = Field(
        None, description="with retention_days: a folder that gets every row as a line of its day before it is deleted"
    )
    unknown_price_interval_s: float = Field(60.0, ge=0, description="at most one alarm per model in this time")

    @model_validator(mode="after")
    def _url_is_usable(self) -> Self:
        try:
            url = make_url(self.url)
        except ArgumentError as error:
            raise ValueError("url is not a database URL; use sqlite:///path or postgresql+psycopg://…") from error
        if url.password is not None:
            raise ValueError("url holds a password, and the resolved config is logged: set PGPASSWORD or use ~/.pgpass")
        if url.drivername == "sqlite":
            if url.database in (None, "", ":memory:"):
                raise ValueError("an in-memory ledger would forget everything; use sqlite:///path")
        elif url.drivername != "postgresql+psycopg":
            raise ValueError(f"url begins with {url.drivername!r}; known: sqlite, postgresql+psycopg")
        elif self.spool_dir is None:
            raise ValueError("spool_dir is needed with Postgres: a local folder that survives a restart")
        return self

    @model_validator(mode="after")
    def _archive_needs_an_age(self) -> Self:
        if self.archive_dir is not None and self.retention_days is None:
            raise ValueError("archive_dir is set but nothing is ever deleted; set retention_days or unset archive_dir")
        return self

    @property
    def sqlite_path(self) -> Path | None:
        """The database file. None for Postgres."""
        url = make_url(self.url)
        return Path(url.database) if url.drivername == "sqlite" and url.database else None

    @property
    def spool_path(self) -> Path:
        """The folder of the spool."""
        if self.spool_dir is not None:
            return Path(self.spool_dir)
        path = self.sqlite_path
        assert path is not None  # the validator asks for spool_dir otherwise
        return path.with_name(path.name + "-spool")
