"""Reads and writes clients' feedback and redacted samples, which training uses, in the ledger's database."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Table, delete, func, insert, select
from sqlalchemy.exc import SQLAlchemyError

from routing.learning.samples import Feedback, Sample
from routing.records import AttemptKind, Record
from serving.ledger.config import LedgerConfig
from serving.ledger.store import StorageDown, insert_new, open_engine, reason_of
from serving.ledger.tables import attempts, feedback, requests, samples


class Asked(Record):
    """What the ledger knows of a request that a client gives feedback on."""

    tenant: str
    category: str | None


class ShadowSpend(Record):
    """Dollars that shadow attempts cost. n_unpriced: attempts without a known price, which are not in usd."""

    usd: float
    n_unpriced: int


class SampleStore:
    """Keeps feedback and samples. It blocks, so it is for threads and commands. Every call is one transaction.

    The ledger's writer or `Store.migrate` makes the tables.
    Every method raises StorageDown when the database takes nothing now.
    """

    def __init__(self, config: LedgerConfig) -> None:
        self._reading: Engine = open_engine(config, read_only=True)
        self._writing: Engine = open_engine(config)
        self._path = config.sqlite_path

    def asked(self, request_id: str) -> Asked | None:
        """The tenant and category of a request. None when the ledger does not have it."""
        with self._transaction(self._reading) as connection:
            row = connection.execute(
                select(requests.c.tenant, requests.c.category).where(requests.c.request_id == request_id)
            ).one_or_none()
        return None if row is None else Asked(tenant=row.tenant, category=row.category)

    def put_feedback(self, said: Feedback) -> None:
        """Keep a client's feedback. It replaces an earlier one on the same request."""
        with self._transaction(self._writing) as connection:
            connection.execute(delete(feedback).where(feedback.c.request_id == said.request_id))
            connection.execute(insert(feedback), [said.model_dump(mode="json")])

    def put_samples(self, kept: Sequence[Sample]) -> None:
        """Keep samples. One that is there already stays as it is."""
        if kept:
            with self._transaction(self._writing) as connection:
                rows = [sample.model_dump(mode="json") for sample in kept]
                connection.execute(insert_new(samples, connection.dialect.name), rows)

    def count_feedback(self, tenant: str, since: datetime) -> int:
        """The number of requests that a tenant has given feedback on since an instant."""
        return self._count(feedback, tenant, since)

    def count_samples(self, tenant: str, since: datetime) -> int:
        """The number of samples of a tenant's requests that began since an instant."""
        return self._count(samples, tenant, since)

    def shadow_spend(self, since: datetime) -> ShadowSpend:
        """What shadow attempts of requests since an instant cost, as far as it is booked."""
        with self._transaction(self._reading) as connection:
            usd, unpriced = connection.execute(
                select(
                    func.coalesce(func.sum(attempts.c.cost_usd), 0.0),
                    func.count().filter(attempts.c.cost_usd.is_(None), attempts.c.price_source.is_(None)),
                )
                .select_from(attempts.join(requests, requests.c.request_id == attempts.c.request_id))
                .where(attempts.c.kind == AttemptKind.SHADOW.value, requests.c.at >= since)
            ).one()
        return ShadowSpend(usd=usd, n_unpriced=unpriced)

    def all_feedback(self, since: datetime | None = None, until: datetime | None = None) -> list[Feedback]:
        """Feedback given in since <= at < until, oldest first."""
        return [Feedback.model_validate(row) for row in self._rows(feedback, since, until)]

    def all_samples(self, since: datetime | None = None, until: datetime | None = None) -> list[Sample]:
        """Samples of requests that began in since <= at < until, oldest first."""
        return [Sample.model_validate(row) for row in self._rows(samples, since, until)]

    def prune(self, before: datetime) -> int:
        """Delete samples of requests that began before an instant, and feedback given before it.

        Returns how many samples.
        """
        with self._transaction(self._writing) as connection:
            connection.execute(delete(feedback).where(feedback.c.at < before))
            return connection.execute(delete(samples).where(samples.c.at < before)).rowcount

    def forget(self, tenant: str) -> int:
        """Delete every sample and all feedback of a tenant. Returns how many samples."""
        with self._transaction(self._writing) as connection:
            connection.execute(delete(feedback).where(feedback.c.tenant == tenant))
            return connection.execute(delete(samples).where(samples.c.tenant == tenant)).rowcount

    def close(self) -> None:
        """Close the connections."""
        self._reading.dispose()
        self._writing.dispose()

    def _count(self, table: Table, tenant: str, since: datetime) -> int:
        with self._transaction(self._reading) as connection:
            n = connection.execute(
                select(func.count()).select_from(table).where(table.c.tenant == tenant, table.c.at >= since)
            ).scalar_one()
        return int(n)

    def _rows(self, table: Table, since: datetime | None, until: datetime | None) -> Iterator[Mapping[str, Any]]:
        where = [
            *([] if since is None else [table.c.at >= since]),
            *([] if until is None else [table.c.at < until]),
        ]
        with self._transaction(self._reading) as connection:
            found = connection.execute(select(table).where(*where).order_by(table.c.at, table.c.request_id)).mappings()
            yield from [dict(row) for row in found]

    @contextmanager
    def _transaction(self, engine: Engine) -> Iterator[Connection]:
        if self._path is not None and not self._path.exists():
            raise StorageDown(f"no ledger at {self._path}: it is made when the stack first starts")
        try:
            with engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise StorageDown(reason_of(error)) from error
