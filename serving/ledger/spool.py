"""Keeps rows on disk while the database is away: JSON lines, read in order, kept until they are in the database.

Every process appends to a file of its own and holds its lock (flock). A file without a holder was left by a process
that died, and the process that finds it takes it over. Nothing is removed before its rows are in the database.
Inserting is idempotent, so a death at any point repeats rows and loses none.
"""

import fcntl
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".spool.jsonl"


@dataclass(slots=True)
class _File:
    """An open, locked spool file."""

    path: Path
    fd: int
    size: int  # bytes of whole lines
    read: int = 0  # bytes that are in the database


class Spool:
    """The spool of one process in a folder that several may share.

    Any thread may call `append`. The rest belongs to the thread that writes to the database.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._current: _File | None = None
        self._waiting: deque[_File] = deque()
        self._peeked = 0

    @property
    def is_empty(self) -> bool:
        """Whether this process has nothing to read in. Files of dead processes count once `adopt` has found them."""
        current = self._current
        return not self._waiting and (current is None or current.size == 0)

    @property
    def size_bytes(self) -> int:
        """Bytes that are still to be read in."""
        with self._lock:
            return sum(file.size - file.read for file in self._files())

    def append(self, lines: Sequence[bytes], *, sync: bool) -> None:
        """Add lines (JSON without line breaks), all or none.

        sync: return only when they are on the disk. Without it, one write to the page cache is made, which survives
        the end of the process but not a power cut.
        Raises OSError when the disk will not take them.
        """
        block = b"".join(line + b"\n" for line in lines)
        with self._lock:
            if self._current is None:
                self._current = self._create()
            file = self._current
            try:
                view = memoryview(block)
                while view:
                    view = view[os.write(file.fd, view) :]
            except OSError:
                os.ftruncate(file.fd, file.size)  # no torn line in the middle
                raise
            file.size += len(block)
        if sync:
            os.fsync(file.fd)  # outside the lock: nobody on the request path waits for a disk

    def adopt(self) -> int:
        """Take over the files of processes that died. Returns how many. Raises OSError."""
        with self._lock:
            mine = {file.path for file in self._files()}
        found = [
            file
            for path in sorted(self._folder.glob(f"*{SUFFIX}"))
            if path not in mine and (file := _take_over(path)) is not None
        ]
        with self._lock:
            self._waiting.extend(found)
        return len(found)

    def peek(self, n_lines: int) -> list[bytes]:
        """The oldest lines not yet read in, at most n. They stay the same until `commit`. Raises OSError."""
        with self._lock:
            if not self._waiting and self._current is not None and self._current.size:
                self._waiting.append(self._current)  # from here on appends go to a new file
                self._current = None
        if not self._waiting:
            return []
        file = self._waiting[0]
        lines: list[bytes] = []
        self._peeked = 0
        with open(file.path, "rb") as source:
            source.seek(file.read)
            while len(lines) < n_lines and (line := source.readline()):
                self._peeked += len(line)
                lines.append(line.rstrip(b"\n"))
        return lines

    def commit(self) -> None:
        """Mark the lines last peeked at as written to the database. A file that is read to its end is removed."""
        file = self._waiting[0]
        file.read += self._peeked
        self._peeked = 0
        if file.read >= file.size:
            with self._lock:
                self._waiting.popleft()
            _remove(file)

    def close(self) -> None:
        """Release the files. Those with rows in them stay for the next process to find."""
        with self._lock:
            files = self._files()
            self._waiting.clear()
            self._current = None
        for file in files:
            if file.read < file.size:
                os.close(file.fd)
            else:
                _remove(file)

    def _files(self) -> list[_File]:
        return [*self._waiting, *([self._current] if self._current else [])]

    def _create(self) -> _File:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}{SUFFIX}"  # names sort by age
        nameless = path.with_suffix(".new")
        fd = os.open(nameless, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        nameless.rename(path)  # locked before others can see it
        folder_fd = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder_fd)  # the name survives a power cut, too
        finally:
            os.close(folder_fd)
        return _File(path, fd, 0)


def _take_over(path: Path) -> _File | None:
    """The file, locked. None when its writer lives, another process was faster, or nothing is in it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    file = _File(path, fd, os.fstat(fd).st_size)
    if file.size and os.fstat(fd).st_nlink:  # no link: read in and removed between opening and locking
        return file
    _remove(file)
    return None


def _remove(file: _File) -> None:
    file.path.unlink(missing_ok=True)
    os.close(file.fd)
