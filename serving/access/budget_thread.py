"""Works with the budgets' database in a thread of its own, so that the event loop never waits for it.

Reservations and settlements that arrive together share one transaction.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from serving.access.budget_store import BudgetStore, Granted, Reserve, Settle, Subject
from serving.ledger.store import StorageDown

log = logging.getLogger(__name__)

MAX_BATCH = 128
RETRY_S = 0.2
FIRST_READ_S = 0.2  # between tries to read who has a budget, because the ledger may be about to be made


@dataclass(slots=True, eq=False)
class WaitingReserve:
    """A Reserve on its way to the database, and the future that waits for its answer."""

    reserve: Reserve
    loop: asyncio.AbstractEventLoop
    answer: "asyncio.Future[Granted]" = field(repr=False)


class BudgetThread:
    """Runs from the moment it is made until it is closed. It closes the store when it ends."""

    def __init__(
        self,
        store: BudgetStore,
        refresh_s: float,
        now: Callable[[], datetime],
        deliver: Callable[[WaitingReserve, Granted | StorageDown], None],
        on_subjects: Callable[[frozenset[Subject]], None],
    ) -> None:
        """refresh_s: how often it reads who has a budget. now: aware wall-clock time.

        deliver: called on the reservation's own event loop with the database's answer.
        on_subjects: called from this thread with everybody who has a budget.
        """
        self._store, self._refresh_s, self._now = store, refresh_s, now
        self._deliver, self._on_subjects = deliver, on_subjects
        self._queue: queue.SimpleQueue[WaitingReserve | Settle | None] = queue.SimpleQueue()
        self._has_read = False
        self._complained = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="budgets", daemon=True)
        self._thread.start()

    def put(self, item: WaitingReserve | Settle) -> None:
        """Hand over a reservation or a settlement. Waits for nothing."""
        self._queue.put(item)

    def close(self, timeout_s: float) -> None:
        """Write what waits, then stop."""
        self._stopping.set()
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        unsettled: list[Settle] = []
        refresh_at = 0.0
        while True:
            waiting = self._take(unsettled, max(refresh_at - time.perf_counter(), 0.0))
            if waiting or unsettled:
                unsettled = self._apply(waiting, unsettled)
            if time.perf_counter() >= refresh_at:
                self._refresh()
                refresh_at = time.perf_counter() + (self._refresh_s if self._has_read else FIRST_READ_S)
            if self._stopping.is_set() and self._queue.empty():
                break
        if unsettled:
            log.error("budgets closed with %d settlements that the database did not take", len(unsettled))
        self._store.close()

    def _take(self, unsettled: list[Settle], patience_s: float) -> list[WaitingReserve]:
        """The next batch of reservations. Settlements are added to `unsettled`."""
        waiting: list[WaitingReserve] = []
        try:
            item = self._queue.get(timeout=min(patience_s, RETRY_S) if unsettled else patience_s)
            while True:
                if isinstance(item, Settle):
                    unsettled.append(item)
                elif item is not None:
                    waiting.append(item)
                if len(waiting) >= MAX_BATCH:
                    break
                item = self._queue.get_nowait()
        except queue.Empty:
            pass
        return waiting

    def _apply(self, waiting: list[WaitingReserve], settles: list[Settle]) -> list[Settle]:
        """Apply one batch in one transaction. Returns the settlements that have to be tried again."""
        result: list[Granted] | StorageDown
        try:
            result = self._store.apply(settles, [w.reserve for w in waiting], self._now())
            settles = []
        except StorageDown as error:
            self._complain(error)
            result = error
        for index, one in enumerate(waiting):
            answer = result if isinstance(result, StorageDown) else result[index]
            try:
                one.loop.call_soon_threadsafe(self._deliver, one, answer)
            except RuntimeError:  # the loop is closed: nobody waits
                log.warning("a reservation was made for a loop that is gone; it expires")
        return settles

    def _refresh(self) -> None:
        try:
            subjects = self._store.subjects()
        except StorageDown as error:
            self._complain(error)
        else:
            self._has_read = True
            self._complained = False
            self._on_subjects(subjects)

    def _complain(self, error: StorageDown) -> None:
        if not self._complained and self._has_read:
            log.warning("budgets: the database does not answer now: %s", error)
            self._complained = True
