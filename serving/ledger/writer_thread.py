"""Writes the ledger's queue into its database, batch by batch, in a thread of its own.

While the database is away, rows go into the spool. While the disk is full too, they stay in memory.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from routing.records import RequestRecord
from serving.ledger.archive import Archive
from serving.ledger.config import LedgerConfig
from serving.ledger.lines import from_line, to_line
from serving.ledger.spool import Spool
from serving.ledger.store import RowRefused, StorageDown, Store

log = logging.getLogger(__name__)

QueuedRow = tuple[RequestRecord, float]  # and when it was recorded, in time.perf_counter() seconds
RowQueue = queue.SimpleQueue[QueuedRow | threading.Event]  # an event is set once every row before it is settled
UnknownPriceHook = Callable[[str, str], None]
PRUNE_INTERVAL_S = 60.0  # between queries for rows that have become too old
REFUSED_FILE = "refused.jsonl"
_MAX_ALARMS = 1000  # models remembered as reported. At the limit all are forgotten, and alarms repeat.


@dataclass(slots=True)
class LedgerCounts:
    """What became of the rows since this process began. The ledger writes it, and any thread may read it."""

    written: int = 0  # handed to the database, from the queue or a spool
    spooled: int = 0  # went through the spool
    replayed: int = 0  # of the written ones, those that came out of a spool, also one left by a dead process
    refused: int = 0  # the database will never take them: kept in refused.jsonl
    lost: int = 0  # neither database nor disk took them, and memory ran out or the process ended
    pruned: int = 0  # deleted because they were older than retention_days
    unknown_prices: int = 0  # attempts whose price is not in the config
    lag_s: float = 0.0  # record() to commit, of the oldest row in the last batch


class WriterThread:
    """Runs from the moment it is made until it is closed. It closes the spool and the store when it ends."""

    def __init__(
        self,
        config: LedgerConfig,
        rows: RowQueue,
        spool: Spool,
        counts: LedgerCounts,
        on_unknown_price: UnknownPriceHook | None,
        on_end: Callable[[], None],
    ) -> None:
        """on_unknown_price: see Ledger. on_end: called in this thread once nobody reads the queue any more.

        Raises ConfigInvalid when the database's driver is not installed.
        """
        self._config, self._queue, self._spool, self._counts = config, rows, spool, counts
        self._on_unknown_price, self._on_end = on_unknown_price, on_end
        self._store = Store(config)
        self._wake = threading.Event()  # do not wait for the batch to fill
        self._up = threading.Event()  # the database took the last write
        self._close_by_s: float | None = None  # closing: until then the backlog may be written
        self.has_ended = False  # nobody reads the queue any more
        # What follows belongs to the thread alone.
        self._migrated = False
        self._complained = False
        self._retry_at_s = 0.0
        self._held: list[RequestRecord] = []  # neither the database nor the disk takes them now
        self._alarmed: dict[tuple[str, str], float] = {}
        self._archive = Archive(Path(config.archive_dir)) if config.archive_dir is not None else None
        self._prune_at_s = 0.0
        self._thread = threading.Thread(target=self._run, name="ledger", daemon=True)
        self._thread.start()

    @property
    def is_up(self) -> bool:
        """Whether the database took the last write."""
        return self._up.is_set()

    @property
    def holds_rows(self) -> bool:
        """Whether it has rows that neither the database nor the disk takes now."""
        return bool(self._held)

    def wait_up(self, timeout_s: float) -> bool:
        """Block until the database takes rows. False when it did not in time."""
        return self._up.wait(timeout_s)

    def wake(self) -> None:
        """Write what is queued now, without waiting for the batch to fill."""
        self._wake.set()

    def close(self, timeout_s: float) -> bool:
        """Write what waits, then stop. False when it took too long."""
        self._close_by_s = time.perf_counter() + timeout_s
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_done():
            rows, waiters = self._take()
            try:
                self._catch_up()
                self._settle(rows)
                self._prune()
            except Exception as error:  # a bug here or in the hook. Writing a row twice does no harm.
                log.exception("ledger writer")
                self._went_down(error)
                self._hold([record for record, _ in rows], error)
            for waiter in waiters:
                waiter.set()
        self.has_ended = True
        self._on_end()
        if self._held:
            self._counts.lost += len(self._held)
            log.error("ledger closed with %d rows that neither database nor disk took", len(self._held))
        self._spool.close()
        self._store.dispose()

    def _is_done(self) -> bool:
        if self._close_by_s is None or not self._queue.empty():
            return False
        backlog = bool(self._held) or not self._spool.is_empty
        return not (backlog and self._up.is_set() and time.perf_counter() < self._close_by_s)

    def _take(self) -> tuple[list[QueuedRow], list[threading.Event]]:
        """The next batch, and who waits for it. Lets it fill first, unless there is a backlog to write meanwhile."""
        if not self._up.is_set():
            pause_s = max(self._retry_at_s - time.perf_counter(), 0.0)
            self._wake.wait(min(pause_s, self._config.flush_interval_s))
        elif self._spool.is_empty and not self._held:
            self._wake.wait(self._config.flush_interval_s)
        self._wake.clear()
        rows: list[QueuedRow] = []
        waiters: list[threading.Event] = []
        while len(rows) < self._config.batch_size:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if isinstance(item, threading.Event):
                waiters.append(item)
            else:
                rows.append(item)
        if not self._queue.empty():
            self._wake.set()
        return rows, waiters

    def _settle(self, rows: Sequence[QueuedRow]) -> None:
        """Put a batch into the database, or into the spool until the database is back."""
        if not rows:
            return
        records = [record for record, _ in rows]
        self._alarm_unknown_prices(records)
        if self._up.is_set() and self._write(records):
            self._counts.lag_s = time.perf_counter() - rows[0][1]
        else:
            self._keep(records)

    def _catch_up(self) -> None:
        """One step towards an empty backlog: reach the database, then write the oldest batch that waits."""
        if not self._up.is_set():
            if time.perf_counter() < self._retry_at_s:
                return
            if not self._reach():
                held, self._held = self._held, []
                self._keep(held)  # the disk may have room again
                return
        if self._held:
            if not self._write(self._held):
                return
            self._held = []
        lines = self._spool.peek(self._config.batch_size)
        if lines:
            records = self._parse(lines)
            if not self._write(records):
                return
            self._counts.replayed += len(records)
            self._spool.commit()
        if not self._up.is_set():
            self._up.set()
            self._complained = False
            log.info("ledger: the database takes rows", extra={"spool_bytes": self._spool.size_bytes})

    def _reach(self) -> bool:
        try:
            if self._migrated:
                self._store.probe()
            else:
                self._store.migrate()
                self._migrated = True
                self._spool.adopt()
        except (StorageDown, OSError) as error:
            self._went_down(error)
            return False
        return True

    def _write(self, records: Sequence[RequestRecord]) -> bool:
        """Insert rows. Those that the database will never take are set aside. False when it takes none now."""
        try:
            try:
                self._store.insert(records)
            except RowRefused:
                for record in records:
                    self._write_alone(record)
        except StorageDown as error:
            self._went_down(error)
            return False
        self._counts.written += len(records)
        return True

    def _write_alone(self, record: RequestRecord) -> None:
        try:
            self._store.insert([record])
        except RowRefused as error:
            self._set_aside({"reason": str(error), "record": json.loads(to_line(record))}, record.request_id)
            self._counts.written -= 1

    def _parse(self, lines: Sequence[bytes]) -> list[RequestRecord]:
        records = []
        for line in lines:
            try:
                records.append(from_line(line))
            except ValueError:
                reason = "not a row: cut off by the death of its writer, or written by another version"
                self._set_aside({"reason": reason, "line": line.decode(errors="backslashreplace")}, None)
        return records

    def _set_aside(self, refused: dict[str, object], request_id: str | None) -> None:
        """Keep what cannot be booked in a file for a person to read. It must not stop the rows behind it."""
        self._counts.refused += 1
        try:
            folder = self._config.spool_path
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / REFUSED_FILE, "a", encoding="ascii") as file:
                file.write(json.dumps(refused) + "\n")
            log.error(
                "ledger row refused: %s; see %s", refused["reason"], REFUSED_FILE, extra={"request_id": request_id}
            )
        except OSError as error:
            self._counts.lost += 1
            log.error("ledger row refused and lost: %s; %s", refused["reason"], error, extra={"request_id": request_id})

    def _keep(self, records: Sequence[RequestRecord]) -> None:
        """Put rows into the spool, or keep them in memory while the disk is full too."""
        if not records:
            return
        try:
            self._spool.append([to_line(record) for record in records], sync=True)
            self._counts.spooled += len(records)
        except OSError as error:
            self._hold(records, error)

    def _hold(self, records: Sequence[RequestRecord], error: Exception) -> None:
        room = max(self._config.queue_size - len(self._held), 0)
        self._held.extend(records[:room])
        lost = max(len(records) - room, 0)
        self._counts.lost += lost
        log.error("ledger spool: %s; %d rows held in memory, %d lost", error, len(self._held), lost)

    def _prune(self) -> None:
        """Delete a batch of rows that are too old. Booking comes first, so this needs an empty queue."""
        busy = not self._queue.empty() or bool(self._held) or not self._spool.is_empty
        if self._config.retention_days is None or not self._up.is_set() or busy or self._close_by_s is not None:
            return
        if time.perf_counter() < self._prune_at_s:
            return
        self._prune_at_s = time.perf_counter() + PRUNE_INTERVAL_S
        before = datetime.now(UTC) - timedelta(days=self._config.retention_days)
        try:
            pruned = self._store.prune(before, self._config.batch_size, self._archive)
        except StorageDown as error:
            self._went_down(error)
            return
        except OSError as error:
            log.error("ledger: old rows stay, their archive cannot be written: %s", error)
            return
        self._counts.pruned += pruned
        if pruned == self._config.batch_size:
            self._prune_at_s = 0.0  # there may be more

    def _went_down(self, error: Exception) -> None:
        self._up.clear()
        self._retry_at_s = time.perf_counter() + self._config.retry_interval_s
        if not self._complained:
            self._complained = True
            log.warning("ledger: the database takes no rows, they go to the spool: %s", error)

    def _alarm_unknown_prices(self, records: Sequence[RequestRecord]) -> None:
        now_s = time.perf_counter()
        for record in records:
            for attempt in record.attempts:
                if attempt.cost_usd is not None or attempt.price_source is not None:
                    continue  # priced, or its price is known and only its use was not measured
                self._counts.unknown_prices += 1
                model = (attempt.provider, attempt.model)
                last_s = self._alarmed.get(model)
                if last_s is not None and now_s - last_s < self._config.unknown_price_interval_s:
                    continue
                if len(self._alarmed) >= _MAX_ALARMS:
                    self._alarmed.clear()
                self._alarmed[model] = now_s
                log.error("no price for %s/%s: its cost is booked as unknown", *model)
                if self._on_unknown_price is not None:
                    self._on_unknown_price(*model)
