"""Reserves the budget of a request before the cascade, and settles it with the ledger row.

A request of a caller without a budget costs one look-up in a set and no database call.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from routing.cost.attempt import CostConfig
from routing.cost.budget import (
    Action,
    Budget,
    BudgetConfig,
    BudgetState,
    Period,
    Scope,
    capped_model,
    charge_usd,
    most_own_usd,
    most_usd,
    window_end,
)
from routing.records import RequestRecord
from serving.access.budget_store import BudgetStore, Granted, Reserve, Settle, Subject
from serving.access.budget_thread import BudgetThread, WaitingReserve
from serving.access.keys import Principal
from serving.errors import BudgetExceeded, BudgetReserved, LedgerUnavailable, StackError
from serving.ledger.config import LedgerConfig
from serving.ledger.store import StorageDown
from serving.request.call import Call

T = TypeVar("T")
EXPIRY_MARGIN = timedelta(minutes=5)  # a reservation outlives every honest request by this


def utc_now() -> datetime:
    """The wall clock. Only windows and expiry use it."""
    return datetime.now(UTC)


class BudgetObserver(Protocol):
    """Hears the results of budget checks, so that they can be counted."""

    def budget_limit(self, scope: Scope, action: Action) -> None:
        """A request reached a limit, and this is what the limit does to it."""
        ...

    def budget_unchecked(self) -> None:
        """A request's budget could not be checked, because the database was away or slow."""
        ...


class Budgets:
    """Checks and books budgets for one gateway process. Its thread runs until it is closed."""

    def __init__(
        self,
        ledger: LedgerConfig,
        config: BudgetConfig,
        cost: CostConfig,
        targets: tuple[str, ...],
        observer: BudgetObserver,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        """targets: 'provider/model' of every frontier model that may answer."""
        self._store = BudgetStore(ledger, config)
        self._config, self._cost, self._targets, self._observer, self._now = config, cost, targets, observer, now
        self._refuse_when_down = ledger.on_failure == "refuse"
        self._subjects: frozenset[Subject] | None = None  # None: not read yet, so everybody may have one
        self._held: dict[str, Granted] = {}
        self._thread = BudgetThread(self._store, config.refresh_s, now, self._deliver, self._know)

    async def admit(self, principal: Principal, call: Call) -> Call:
        """Return the call as its budgets allow it. Whoever gets it settles or releases it, however it ends.

        Raises BudgetExceeded, BudgetReserved, and LedgerUnavailable when the database is away and the ledger is
        configured to refuse then.
        """
        subjects = subjects_of(principal)
        if self._subjects is not None and not self._subjects.intersection(subjects):
            return call
        full_usd = most_usd(call.features, self._targets, self._cost, self._config)
        if full_usd is None:
            if not await self._may_have_one(subjects):
                return call
            raise BudgetExceeded(
                "this key has a budget, but a frontier model has no price; set its price or cost.ceiling"
            )
        seconds = max(call.deadline - time.perf_counter(), 0.0)
        expires_at = self._now() + timedelta(seconds=seconds) + EXPIRY_MARGIN
        own_usd = most_own_usd(self._cost, self._config)
        granted = await self._ask(Reserve(call.request_id, subjects, full_usd, own_usd, expires_at))
        if granted is None:
            return call
        ruling = granted.ruling
        if ruling.because is not None:
            self._observer.budget_limit(ruling.because.budget.scope, ruling.action)
            if ruling.action is Action.REFUSE:
                raise self._refusal(ruling.because)
        capped = capped_model(call.model, ruling.action)
        return call if capped is None else replace(call, capped_model=capped)

    def settle(self, row: RequestRecord) -> None:
        """Book what a request cost and free its reservation, if it has one. Waits for nothing."""
        granted = self._held.pop(row.request_id, None)
        if granted is not None:
            spent_usd = charge_usd(row, self._cost, granted.amount_usd)
            self._thread.put(Settle(row.request_id, granted.holds, spent_usd))

    def release(self, request_id: str) -> None:
        """Free a reservation of which nothing was spent. Does nothing when it is settled already."""
        if self._held.pop(request_id, None) is not None:
            self._thread.put(Settle(request_id, (), 0.0))

    @property
    def subjects(self) -> frozenset[Subject]:
        """Who has a budget, as far as this process has seen."""
        return self._subjects or frozenset()

    @property
    def reserved_usd(self) -> float:
        """What this process has reserved right now."""
        return sum(granted.amount_usd for granted in self._held.values())

    async def states(self, tenant: str | None = None, key_id: str | None = None) -> list[BudgetState]:
        """Budgets with what is used of them: a tenant's and a key's, or all of them. Raises LedgerUnavailable."""
        subjects = None if tenant is None else subjects_of(Principal(tenant=tenant, key_id=key_id))
        return await self._blocking(lambda: self._store.states(self._now(), subjects))

    async def put(self, budget: Budget) -> None:
        """Set a limit, valid from the next request on. Raises LedgerUnavailable."""
        await self._blocking(lambda: self._store.put(budget, self._now()))
        self._subjects = (self._subjects or frozenset()) | {(budget.scope, budget.subject)}

    async def remove(self, scope: Scope, subject: str, period: Period) -> bool:
        """Remove a limit. False when there was none. Raises LedgerUnavailable."""
        return await self._blocking(lambda: self._store.remove(scope, subject, period))

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what waits, then stop."""
        self._thread.close(timeout_s)

    async def _blocking(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(work)
        except StorageDown as error:
            raise LedgerUnavailable(f"budgets cannot be read or set now: {error}") from error

    async def _may_have_one(self, subjects: tuple[Subject, ...]) -> bool:
        """Whether any of them has a budget. Reads the database itself when the thread has not read it yet."""
        known = self._subjects
        if known is None:
            try:
                async with asyncio.timeout(self._config.timeout_s):
                    known = await self._blocking(self._store.subjects)
            except (LedgerUnavailable, TimeoutError) as error:
                self._observer.budget_unchecked()
                if self._refuse_when_down:
                    raise LedgerUnavailable("the budget cannot be checked, and the stack refuses then") from error
                return False
        return not known.isdisjoint(subjects)

    async def _ask(self, reserve: Reserve) -> Granted | None:
        """The thread's answer. None when the database is away and requests are served all the same."""
        loop = asyncio.get_running_loop()
        waiting = WaitingReserve(reserve, loop, loop.create_future())
        self._thread.put(waiting)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                return await waiting.answer
        except (StorageDown, TimeoutError) as error:
            self._observer.budget_unchecked()
            if self._refuse_when_down:
                raise LedgerUnavailable("the budget cannot be checked, and the stack refuses then") from error
            return None
        except BaseException:
            self.release(reserve.request_id)
            raise

    def _refusal(self, state: BudgetState) -> StackError:
        budget, now = state.budget, self._now()
        limit = f"the {budget.scope}'s budget of ${budget.hard_usd:g} for the {budget.period}"
        if budget.hard_usd is not None and state.spent_usd < budget.hard_usd:
            return BudgetReserved(
                f"what is left of {limit} is promised to requests that are being answered; retry shortly",
                retry_after_s=1.0,
            )
        end = window_end(budget.period, now)
        return BudgetExceeded(
            f"{limit} is used up (${state.spent_usd:.6f}); it begins anew at {end.isoformat()}",
            retry_after_s=max((end - now).total_seconds(), 1.0),
        )

    def _deliver(self, waiting: WaitingReserve, result: Granted | StorageDown) -> None:
        """Hand over the answer on the event loop. A reservation that nobody waits for any more is freed."""
        gone = waiting.answer.done()
        if isinstance(result, Granted) and result.holds:
            self._held[waiting.reserve.request_id] = result
            if gone:
                self.release(waiting.reserve.request_id)
        if gone:
            return
        if isinstance(result, Granted):
            waiting.answer.set_result(result)
        else:
            waiting.answer.set_exception(result)

    def _know(self, subjects: frozenset[Subject]) -> None:
        self._subjects = subjects


def subjects_of(principal: Principal) -> tuple[Subject, ...]:
    """The subjects whose budgets pay for a caller's requests."""
    tenant: Subject = (Scope.TENANT, principal.tenant)
    return (tenant,) if principal.key_id is None else (tenant, (Scope.KEY, principal.key_id))
