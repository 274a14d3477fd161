"""The exactly-once attempt ledger: one row per request, one per attempt, settled in `finally`.

config.py   where rows go and what happens when they cannot
writer.py   Ledger: record() on the request path, a thread that writes batches
store.py    the database, SQLite or Postgres, through one data layer: tables.py, rows.py, migrations/
spool.py    where rows wait while the database is away
samples.py  what the flywheel learns from besides: feedback and redacted samples of texts
reader.py   tail, ranges and totals; tail.py makes one line of a request, export.py and lines.py move them as JSONL
"""

from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader
from serving.ledger.writer import Ledger

__all__ = ["Ledger", "LedgerConfig", "LedgerReader"]
