"""Reads the ledger while it is being written: the latest rows, ranges in bounded memory, totals."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    and_,
    case,
    cast,
    func,
    inspect,
    literal,
    or_,
    select,
    true,
)

from routing.cost.attempt import SELF_PROVIDER
from routing.cost.prefill_speed import PrefillFit, PrefillSpeed
from routing.cost.savings import Grade
from routing.records import AttemptKind, AttemptOutcome, Record, RequestOutcome, RequestRecord, Tier
from serving.errors import ConfigInvalid
from serving.ledger import tail
from serving.ledger.config import LedgerConfig
from serving.ledger.rows import record_from_rows
from serving.ledger.store import open_engine
from serving.ledger.tables import attempts, requests, samples

_PAGE = 500  # rows per query: about 1 MB, and no transaction is open while the caller works on them
# `at` is a request's start. Its row comes when it ends, and later if it went through the spool.
_LATE = timedelta(minutes=15)

Instant = datetime | str
_WASTED = (
    AttemptOutcome.REJECTED,
    AttemptOutcome.ABORTED,
    AttemptOutcome.CANCELLED,
    AttemptOutcome.FAILED,
    AttemptOutcome.BROKEN,
)


class LedgerTotals(Record):
    """Sums over a range of requests. Rows with unknown dollars are in no sum, and a count of them stands beside it.

    saved_usd is signed. It counts only requests whose cost and baseline are both known.
    wasted_usd is the cost of attempts whose answer nobody got. It is part of cost_usd.
    """

    requests: int
    outcomes: dict[RequestOutcome, int]
    served: dict[Tier, int]
    drafts_judged: int
    drafts_rejected: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cost_unknown: int
    cost_usd_by_kind: dict[AttemptKind, float]
    wasted_usd: float
    baseline_cost_usd: float
    baseline_unknown: int
    saved_usd: float


class LedgerReader:
    """Reads in transactions of its own, so that readers and writers do not wait for each other."""

    def __init__(self, config: LedgerConfig) -> None:
        """Opens nothing yet. Raises ConfigInvalid for a missing driver. Reading raises it when there is no ledger."""
        self._path = config.sqlite_path
        self._engine: Engine = open_engine(config, read_only=True)

    def requests(
        self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None
    ) -> Iterator[RequestRecord]:
        """Requests with all their attempts, oldest first: since <= at < until. Holds one page in memory.

        Instants are datetimes or ISO 8601, in UTC when they name no offset. Raises ConfigInvalid for other strings.
        """
        where = _range(since, until, tenant)
        while True:
            page = self._page(where, newest_first=False, limit=_PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            at, request_id = page[-1].at, page[-1].request_id
            after = or_(requests.c.at > at, requests.c.request_id > request_id)
            where = [*_range(at, until, tenant), after]

    def count(self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None) -> int:
        """How many requests began in since <= at < until."""
        with self._connect() as connection:
            n = connection.execute(select(func.count()).select_from(requests).where(*_range(since, until, tenant)))
            return int(n.scalar_one())

    def prefill(
        self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None
    ) -> tuple[PrefillSpeed, ...]:
        """The prefill speeds of our engines, fitted to sums that the database computes."""
        a = attempts.c
        columns = [
            literal(1.0),
            cast(a.input_tokens - a.cached_tokens, Double),
            cast(a.output_tokens, Double),
            a.engine_s,
        ]
        pairs = [(i, j) for i in range(4) for j in range(i, 4)]
        measured = (
            a.provider == SELF_PROVIDER,
            a.engine_s.is_not(None),
            a.cached_tokens.is_not(None),
            a.usage_estimated.is_(False),
        )
        sums = [func.sum(columns[i] * columns[j]) for i, j in pairs]
        fit = PrefillFit()
        with self._connect() as connection:
            rows = connection.execute(
                select(a.tier, a.model, func.count(), *sums)
                .select_from(attempts.join(requests, requests.c.request_id == a.request_id))
                .where(*measured, *_range(since, until, tenant))
                .group_by(a.tier, a.model)
            ).all()
        for tier, model, n, *found in rows:
            moments = np.zeros((4, 4))
            for (i, j), value in zip(pairs, found, strict=True):
                moments[i, j] = moments[j, i] = value
            fit.add_moments(Tier(tier), model, n, moments)
        return fit.speeds()

    def grades(self, since: Instant | None = None, until: Instant | None = None) -> dict[str, Grade]:
        """How good the sampled answers of a range were, by request id. Empty when nothing was graded."""
        s = samples.c
        graded = or_(s.tier1_quality.is_not(None), s.frontier_quality.is_not(None))
        within = [*([] if since is None else [s.at >= _utc(since)]), *([] if until is None else [s.at < _utc(until)])]
        with self._connect() as connection:
            if not inspect(connection).has_table(samples.name):
                return {}
            rows = connection.execute(
                select(s.request_id, s.tier1_quality, s.frontier_quality).where(graded, *within)
            ).all()
        return {
            request_id: Grade(tier1_quality=tier1, frontier_quality=frontier) for request_id, tier1, frontier in rows
        }

    def latest(self, n: int, tenant: str | None = None) -> list[RequestRecord]:
        """The n requests that began last, oldest first."""
        return self._page(_range(None, None, tenant), newest_first=True, limit=n)[::-1]

    def follow(
        self, n: int, poll_s: float = 0.5, stop: threading.Event | None = None, tenant: str | None = None
    ) -> Iterator[RequestRecord]:
        """The latest n requests, then every further one as it is booked, until `stop` is set or the caller leaves.

        Requests end in another order than they began, so each query goes back 15 minutes.
        """
        stop = stop or threading.Event()
        seen: dict[str, datetime] = {}
        page = self.latest(n, tenant)
        horizon: datetime | None = None
        while True:
            for record in page:
                at = datetime.fromisoformat(record.at)
                if record.request_id not in seen:
                    seen[record.request_id] = at
                    yield record
                horizon = at - _LATE if horizon is None else max(horizon, at - _LATE)
            seen = {request_id: at for request_id, at in seen.items() if horizon is None or at >= horizon}
            if stop.wait(poll_s):
                return
            page = list(self.requests(since=horizon, tenant=tenant))

    def tail(self, n: int, follow: bool = False, stop: threading.Event | None = None) -> Iterator[str]:
        """A header and the latest requests as lines of text. With follow it goes on as long as the caller listens."""
        yield tail.HEADER
        for record in self.follow(n, stop=stop) if follow else self.latest(n):
            yield tail.line(record)

    def totals(
        self, since: Instant | None = None, until: Instant | None = None, tenant: str | None = None
    ) -> LedgerTotals:
        """Sums over since <= at < until, computed by the database."""
        where = and_(true(), *_range(since, until, tenant))
        r, a = requests.c, attempts.c
        joined = attempts.join(requests, r.request_id == a.request_id)
        zero = 0.0
        with self._connect() as connection:
            sums = connection.execute(
                select(
                    func.count(),
                    func.count(r.accepted),
                    func.coalesce(func.sum(case((r.accepted.is_(False), 1), else_=0)), 0),
                    func.coalesce(func.sum(r.baseline_cost_usd), zero),
                    func.count() - func.count(r.cost_usd),
                    func.count() - func.count(r.baseline_cost_usd),
                    func.coalesce(func.sum(r.baseline_cost_usd - r.cost_usd), zero),
                ).where(where)
            ).one()
            outcomes = connection.execute(select(r.outcome, func.count()).where(where).group_by(r.outcome)).all()
            served = connection.execute(
                select(r.served_tier, func.count()).where(where, r.served_tier.is_not(None)).group_by(r.served_tier)
            ).all()
            by_kind = connection.execute(
                select(
                    a.kind,
                    func.coalesce(func.sum(a.cost_usd), zero),
                    func.coalesce(func.sum(case((a.outcome.in_(_WASTED), a.cost_usd), else_=zero)), zero),
                    func.coalesce(func.sum(a.input_tokens), 0),
                    func.coalesce(func.sum(a.output_tokens), 0),
                )
                .select_from(joined)
                .where(where)
                .group_by(a.kind)
            ).all()
        n, judged, rejected, baseline_usd, cost_unknown, baseline_unknown, saved_usd = sums
        return LedgerTotals(
            requests=n,
            outcomes={RequestOutcome(name): count for name, count in outcomes},
            served={Tier(name): count for name, count in served},
            drafts_judged=judged,
            drafts_rejected=rejected,
            input_tokens=sum(row[3] for row in by_kind),
            output_tokens=sum(row[4] for row in by_kind),
            cost_usd=sum(row[1] for row in by_kind),
            cost_unknown=cost_unknown,
            cost_usd_by_kind={AttemptKind(row[0]): row[1] for row in by_kind},
            wasted_usd=sum(row[2] for row in by_kind),
            baseline_cost_usd=baseline_usd,
            baseline_unknown=baseline_unknown,
            saved_usd=saved_usd,
        )

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _connect(self) -> Connection:
        if self._path is not None and not self._path.exists():  # SQLite would make an empty one
            raise ConfigInvalid(f"no ledger at {self._path}: it is made when the stack first starts")
        return self._engine.connect()

    def _page(self, where: Sequence[ColumnElement[bool]], *, newest_first: bool, limit: int) -> list[RequestRecord]:
        order = [column.desc() if newest_first else column.asc() for column in (requests.c.at, requests.c.request_id)]
        with self._connect() as connection:
            found = connection.execute(select(requests).where(*where).order_by(*order).limit(limit))
            rows = [row._asdict() for row in found]
            tried = connection.execute(
                select(attempts)
                .where(attempts.c.request_id.in_([row["request_id"] for row in rows]))
                .order_by(attempts.c.request_id, attempts.c.ordinal)
            )
            by_request = {
                request_id: list(group)
                for request_id, group in groupby((row._asdict() for row in tried), itemgetter("request_id"))
            }
        return [record_from_rows(row, by_request.get(row["request_id"], [])) for row in rows]


def _range(since: Instant | None, until: Instant | None, tenant: str | None) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if since is not None:
        where.append(requests.c.at >= _utc(since))
    if until is not None:
        where.append(requests.c.at < _utc(until))
    if tenant is not None:
        where.append(requests.c.tenant == tenant)
    return where


def _utc(instant: Instant) -> datetime:
    if isinstance(instant, str):
        try:
            instant = datetime.fromisoformat(instant)
        except ValueError as error:
            raise ConfigInvalid(
                f"{instant!r} is no moment in ISO 8601, such as 2026-11-21T13:00 or 2026-11-21"
            ) from error
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
