"""Books requests on the request path. record() puts a row in memory and returns, and a thread writes batches.

A row goes queue → database. While the database is away it goes queue → spool → database.
When the queue is full it goes straight to the spool.
Every row is written at least once, and inserting is idempotent, so every row is there exactly once in the end.
"""

import logging
import queue
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import Self

from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.lines import to_line
from serving.ledger.spool import Spool
from serving.ledger.writer_thread import LedgerCounts, RowQueue, UnknownPriceHook, WriterThread

__all__ = ["Ledger", "LedgerCounts"]

log = logging.getLogger(__name__)


class Ledger:
    """Books the requests of one process. It writes from the moment it is made until it is closed."""

    def __init__(self, config: LedgerConfig, on_unknown_price: UnknownPriceHook | None = None) -> None:
        """on_unknown_price(provider, model): called from the writer thread, at most once per model and interval.

        The schema is created or upgraded as soon as the database answers. Until then rows wait.
        Raises ConfigInvalid when the database's driver is not installed.
        """
        self.counts = LedgerCounts()
        self._config = config
        self._spool = Spool(config.spool_path)
        self._queue: RowQueue = queue.SimpleQueue()
        self._thread = WriterThread(
            config, self._queue, self._spool, self.counts, on_unknown_price, self._empty_into_spool
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def record(self, record: RequestRecord) -> None:
        """Book one settled request. Any thread or event loop may call it. It waits for nothing and raises nothing."""
        if self._queue.qsize() < self._config.queue_size:
            self._queue.put((record, time.perf_counter()))
            if self._thread.has_ended:
                self._empty_into_spool()
        else:
            self._overflow(record)

    @property
    def config(self) -> LedgerConfig:
        """Where the rows go."""
        return self._config

    def ready(self) -> bool:
        """Whether requests may be served: always under on_failure=serve, otherwise while the database takes rows."""
        return self._config.on_failure == "serve" or self._thread.is_up

    @property
    def is_up(self) -> bool:
        """Whether the database took the last write."""
        return self._thread.is_up

    @property
    def queued(self) -> int:
        """Rows in memory."""
        return self._queue.qsize()

    @property
    def spool_bytes(self) -> int:
        """Bytes on disk that are not in the database yet."""
        return self._spool.size_bytes

    def counters(self) -> dict[str, float]:
        """All counts and gauges of the ledger by name, for telemetry."""
        gauges = {"queued": float(self.queued), "spool_bytes": float(self.spool_bytes), "up": float(self.is_up)}
        return gauges | {name: float(value) for name, value in asdict(self.counts).items()}

    def wait_up(self, timeout_s: float) -> bool:
        """Block until the database takes rows. False when it did not in time."""
        return self._thread.wait_up(timeout_s)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Block until every row recorded before is in the database or on the disk. False when that did not happen."""
        settled = threading.Event()
        self._queue.put(settled)
        self._thread.wake()
        return settled.wait(timeout_s) and not self._thread.holds_rows

    def close(self, timeout_s: float = 10.0) -> bool:
        """Write what waits, then stop. False when it took too long. Rows recorded later go to the spool."""
        return self._thread.close(timeout_s)

    def _overflow(self, record: RequestRecord) -> None:
        """Put a row into the spool from the request path. It costs one write to the page cache."""
        try:
            self._spool.append([to_line(record)], sync=False)
            self.counts.spooled += 1
        except OSError as error:
            self.counts.lost += 1
            log.error("ledger row lost: queue full, spool: %s", error, extra={"request_id": record.request_id})

    def _empty_into_spool(self) -> None:
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, threading.Event):
                item.set()
            else:
                self._overflow(item[0])
