"""Books every request exactly once: one row per request, one per attempt, settled in `finally`.

config.py         where rows go and what happens when they cannot
writer.py         Ledger: record() on the request path
writer_thread.py  writes batches of rows into the database
store.py          the database, SQLite or Postgres, through one data layer: tables.py, rows.py, migrations/
spool.py          where rows wait on disk while the database is away
archive.py        where rows go as files before they are deleted by age
samples.py        what the flywheel also learns from: feedback and redacted samples of texts
reader.py         latest rows, ranges and totals
tail.py           one request as one line of text
export.py         ranges as JSON lines, out and in, in the format of lines.py
"""

from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.ledger.writer import Ledger

__all__ = ["Ledger", "LedgerConfig", "LedgerReader"]
