"""Rows that leave the ledger, kept as files: one a day, one JSON line a request, as `ledger export` writes them."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from routing.records import RequestRecord
from serving.ledger.lines import to_line

ENDING = ".jsonl"


class Archive:
    """A folder of days. A process that dies between writing and deleting leaves rows in both: they have their ids."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, records: Sequence[RequestRecord]) -> None:
        """Write them, in order of their time, each to the file of its UTC day, through to the disk. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for day, rows in groupby(records, key=lambda record: record.at[:10]):
            descriptor = os.open(self._folder / f"{day}{ENDING}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "ab") as file:
                file.write(b"".join(to_line(row) + b"\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
