"""Moves the ledger as JSONL: one RequestRecord with its attempts per line. An export can be imported again."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import BinaryIO

from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.lines import from_line, to_line
from serving.ledger.reader import Instant, LedgerReader
from serving.ledger.store import Store


def export_jsonl(
    reader: LedgerReader,
    out: BinaryIO,
    since: Instant | None = None,
    until: Instant | None = None,
    tenant: str | None = None,
) -> int:
    """Write the range, oldest first, in bounded memory. Returns the number of requests."""
    n = 0
    for record in reader.requests(since, until, tenant):
        out.write(to_line(record) + b"\n")
        n += 1
    return n


def read_jsonl(source: Iterable[bytes]) -> Iterator[RequestRecord]:
    """The requests of an export. Raises ValueError naming the line that is not a request."""
    for number, line in enumerate(source, start=1):
        try:
            yield from_line(line)
        except ValueError as error:
            raise ValueError(f"line {number} is not a ledger row: {error}") from error


def import_jsonl(config: LedgerConfig, source: Iterable[bytes]) -> int:
    """Add an export to a ledger, which is made if need be. Returns the number read.

    Rows that are there already stay as they are.

    Raises ValueError for a bad line (the batches before it are written), StorageDown, RowRefused.
    """
    store = Store(config)
    try:
        store.migrate()
        records = read_jsonl(source)
        n = 0
        while batch := list(islice(records, config.batch_size)):
            store.insert(batch)
            n += len(batch)
        return n
    finally:
        store.dispose()
