"""Keeps budgets in the ledger's database: limits, what was spent per window, what is reserved.

A batch is one transaction. Processes take turns by the database's own locks.
SQLite has a single writer. Postgres locks the rows of the limits.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Date,
    Engine,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite

from routing.cost.budget import Action, Budget, BudgetConfig, BudgetState, Period, Ruling, Scope, rule, window_start
from serving.ledger.config import LedgerConfig
from serving.ledger.store import StorageDown, open_engine, reason_of
from serving.ledger.tables import attempts, budget_reservations, budget_spend, budgets, requests

SWEEP_EVERY = timedelta(minutes=1)

Subject = tuple[Scope, str]
_Key = tuple[str, str, str]  # scope, subject, period


@dataclass(frozen=True, slots=True)
class Reserve:
    """A request that asks to be let in.

    full_usd: the most it can cost. own_usd: the most it can cost when it may only use our own engines.
    """

    request_id: str
    subjects: tuple[Subject, ...]
    full_usd: float
    own_usd: float
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """One budget's reservation for one request."""

    scope: Scope
    subject: str
    period: Period
    starts: date


@dataclass(frozen=True, slots=True)
class Granted:
    """The answer to a Reserve. holds is empty when it was refused, or when nobody set a budget."""

    ruling: Ruling
    amount_usd: float = 0.0
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class Settle:
    """The end of a reservation. What was held is freed. What was spent is booked in the window it was held in."""

    request_id: str
    holds: tuple[Hold, ...]
    spent_usd: float


@dataclass(frozen=True, slots=True)
class _Queries:
    """Select the limits, and what was spent and is reserved in the present windows.

    They are built once, because building them takes longer than running them.
    Parameters: subjects, day, month (first days of the windows), now.
    """

    limits: Select[Any]
    spent: Select[Any]
    reserved: Select[Any]


def _queries(*, named: bool, lock: bool = False) -> _Queries:
    def mine(table: Table) -> ColumnElement[bool]:
        if not named:
            return true()
        return tuple_(table.c.scope, table.c.subject).in_(bindparam("subjects", expanding=True))

    def present(table: Table) -> ColumnElement[bool]:
        first = {period: bindparam(period.value, type_=Date) for period in Period}
        return or_(*(and_(table.c.period == period.value, table.c.starts == first[period]) for period in Period))

    def key(table: Table) -> tuple[Any, ...]:
        return (table.c.scope, table.c.subject, table.c.period)

    limits = select(budgets).where(mine(budgets)).order_by(*budgets.primary_key)
    held = budget_reservations
    alive = held.c.expires_at > bindparam("now", type_=held.c.expires_at.type)
    return _Queries(
        limits=limits.with_for_update() if lock else limits,
        spent=select(*key(budget_spend), budget_spend.c.spent_usd).where(mine(budget_spend), present(budget_spend)),
        reserved=select(*key(held), func.sum(held.c.amount_usd))
        .where(mine(held), present(held), alive)
        .group_by(*key(held)),
    )


EVERYBODYS = _queries(named=False)
SOMEBODYS = _queries(named=True)
LOCKED = _queries(named=True, lock=True)


class BudgetStore:
    """Reads and writes budgets. It blocks, so it is for threads and commands.

    The ledger's writer or `Store.migrate` makes the tables.
    Every method raises StorageDown when the database takes nothing now.
    """

    def __init__(self, config: LedgerConfig, rules: BudgetConfig) -> None:
        """Opens nothing yet."""
        self._path, self._rules = config.sqlite_path, rules
        self._writing = open_engine(config)
        self._reading = open_engine(config, read_only=True)
        self._insert = postgresql.insert if self._writing.dialect.name == "postgresql" else sqlite.insert
        self._swept: datetime | None = None

    def put(self, budget: Budget, now: datetime) -> None:
        """Set a limit, or change it. A tenant's window begins with what the ledger has already booked in it."""
        key = {"scope": budget.scope.value, "subject": budget.subject, "period": budget.period.value}
        limits = {"hard_usd": budget.hard_usd, "soft_usd": budget.soft_usd}
        starts = window_start(budget.period, now)
        with self._transaction() as connection:
            connection.execute(
                self._insert(budgets)
                .values(**key, **limits)
                .on_conflict_do_update(index_elements=list(budgets.primary_key), set_=limits)
            )
            if budget.scope is Scope.TENANT:
                insert = self._insert(budget_spend).values(
                    **key, starts=starts, spent_usd=_booked_usd(connection, budget.subject, starts)
                )
                known, booked = budget_spend.c.spent_usd, insert.excluded.spent_usd
                connection.execute(
                    insert.on_conflict_do_update(
                        index_elements=list(budget_spend.primary_key),
                        set_={"spent_usd": case((booked > known, booked), else_=known)},
                    )
                )

    def remove(self, scope: Scope, subject: str, period: Period) -> bool:
        """Remove a limit. False when there was none."""
        where = (budgets.c.scope == scope.value, budgets.c.subject == subject, budgets.c.period == period.value)
        with self._transaction() as connection:
            return connection.execute(delete(budgets).where(*where)).rowcount > 0

    def states(self, now: datetime, subjects: Sequence[Subject] | None = None) -> list[BudgetState]:
        """Budgets with what is used of their present windows, in order. subjects: only theirs."""
        with self._transaction(self._reading) as connection:
            return list(self._states(connection, now, subjects).values())

    def subjects(self) -> frozenset[Subject]:
        """Everybody who has a budget."""
        with self._transaction(self._reading) as connection:
            rows = connection.execute(select(budgets.c.scope, budgets.c.subject).distinct())
            return frozenset((Scope(scope), subject) for scope, subject in rows)

    def apply(self, settles: Sequence[Settle], reserves: Sequence[Reserve], now: datetime) -> list[Granted]:
        """Settle, then reserve in order, all in one transaction. Returns one Granted per Reserve. now: aware."""
        with self._transaction() as connection:
            self._sweep(connection, now)
            self._settle(connection, settles)
            return self._reserve(connection, reserves, now) if reserves else []

    def close(self) -> None:
        """Close the connections."""
        self._writing.dispose()
        self._reading.dispose()

    def _reserve(self, connection: Connection, reserves: Sequence[Reserve], now: datetime) -> list[Granted]:
        wanted = sorted({subject for reserve in reserves for subject in reserve.subjects})
        states = self._states(connection, now, wanted, lock=True)
        granted, rows = [], []
        for reserve in reserves:
            mine = {key: state for key, state in states.items() if (Scope(key[0]), key[1]) in reserve.subjects}
            ruling = rule(list(mine.values()), self._rules)
            if ruling.action is Action.REFUSE or not mine:
                granted.append(Granted(ruling))
                continue
            amount_usd = reserve.own_usd if ruling.action is Action.TIER1_ONLY else reserve.full_usd
            holds = []
            for key, state in mine.items():
                states[key] = state.model_copy(update={"reserved_usd": state.reserved_usd + amount_usd})
                holds.append(Hold(state.budget.scope, state.budget.subject, state.budget.period, state.starts))
                rows.append(
                    {
                        **_columns(holds[-1]),
                        "request_id": reserve.request_id,
                        "amount_usd": amount_usd,
                        "expires_at": reserve.expires_at,
                    }
                )
            granted.append(Granted(ruling, amount_usd, tuple(holds)))
        if rows:
            connection.execute(budget_reservations.insert(), rows)
        return granted

    def _settle(self, connection: Connection, settles: Sequence[Settle]) -> None:
        if not settles:
            return
        ids = [settle.request_id for settle in settles]
        connection.execute(delete(budget_reservations).where(budget_reservations.c.request_id.in_(ids)))
        spent: dict[tuple[str, str, str, date], float] = {}
        for settle in settles:
            for hold in settle.holds:
                key = (hold.scope.value, hold.subject, hold.period.value, hold.starts)
                spent[key] = spent.get(key, 0.0) + settle.spent_usd
        if not spent:
            return
        insert = self._insert(budget_spend)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(budget_spend.primary_key),
                set_={"spent_usd": budget_spend.c.spent_usd + insert.excluded.spent_usd},
            ),
            [
                {"scope": scope, "subject": subject, "period": period, "starts": starts, "spent_usd": usd}
                for (scope, subject, period, starts), usd in sorted(spent.items())  # one order: no deadlock
            ],
        )

    def _sweep(self, connection: Connection, now: datetime) -> None:
        """Free what a process that died had reserved. It also runs at once when the clock went back."""
        if self._swept is None or not timedelta(0) <= now - self._swept < SWEEP_EVERY:
            connection.execute(delete(budget_reservations).where(budget_reservations.c.expires_at <= now))
            self._swept = now

    def _states(
        self, connection: Connection, now: datetime, subjects: Sequence[Subject] | None, *, lock: bool = False
    ) -> dict[_Key, BudgetState]:
        """lock: no other transaction may decide on these budgets before this one ends."""
        if subjects is not None and not subjects:
            return {}
        starts = {period: window_start(period, now) for period in Period}
        given: dict[str, Any] = {period.value: first for period, first in starts.items()} | {"now": now}
        if subjects is None:
            queries = EVERYBODYS
        else:
            queries = LOCKED if lock else SOMEBODYS
            given["subjects"] = [(scope.value, subject) for scope, subject in subjects]
        found = connection.execute(queries.limits, given).mappings().all()
        if not found:
            return {}
        spent, reserved = (_by_key(connection.execute(q, given)) for q in (queries.spent, queries.reserved))
        states = {}
        for row in found:
            key = (row["scope"], row["subject"], row["period"])
            budget = Budget.model_validate(dict(row))
            states[key] = BudgetState(
                budget=budget,
                starts=starts[budget.period],
                spent_usd=spent.get(key, 0.0),
                reserved_usd=max(reserved.get(key, 0.0), 0.0),
            )
        return states

    @contextmanager
    def _transaction(self, engine: Engine | None = None) -> Iterator[Connection]:
        if self._path is not None and not self._path.exists():
            raise StorageDown(f"no ledger at {self._path}: it is made when the stack first starts")
        try:
            with (engine or self._writing).begin() as connection:
                yield connection
        except Exception as error:
            raise StorageDown(reason_of(error)) from error


def _by_key(rows: Iterable[Any]) -> dict[_Key, float]:
    return {(scope, subject, period): usd for scope, subject, period, usd in rows}


def _columns(hold: Hold) -> dict[str, Any]:
    return {
        "scope": hold.scope.value,
        "subject": hold.subject,
        "period": hold.period.value,
        "starts": hold.starts,
    }


def _booked_usd(connection: Connection, tenant: str, starts: date) -> float:
    """What the ledger has booked for a tenant since the first moment of a day."""
    since = datetime(starts.year, starts.month, starts.day, tzinfo=UTC)
    return float(
        connection.execute(
            select(func.coalesce(func.sum(attempts.c.cost_usd), 0.0))
            .select_from(attempts.join(requests, requests.c.request_id == attempts.c.request_id))
            .where(requests.c.tenant == tenant, requests.c.at >= since)
        ).scalar_one()
    )
