"""Keeps rows that leave the ledger in files: one file a day, one JSON line a request, as in `ledger export`."""

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from routing.records import RequestRecord
from serving.ledger.lines import to_line

ENDING = ".jsonl"


class Archive:
    """A folder with one file per day.

    A process that dies between writing and deleting leaves rows in both. Their ids tell which these are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, records: Sequence[RequestRecord]) -> None:
        """Append records, which are in order of time, to the files of their UTC days, and sync them. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for day, rows in groupby(records, key=lambda record: record.at[:10]):
            descriptor = os.open(self._folder / f"{day}{ENDING}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with open(descriptor, "ab") as file:
                file.write(b"".join(to_line(row) + b"\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
