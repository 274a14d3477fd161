"""A real Postgres server from Debian's package, in a folder of its own, as a user who is not root."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

USER = "tierwise"
START_WITHIN_S = 60.0
NOBODY = 65534  # Postgres refuses to run as root


def binaries() -> Path | None:
    """Where initdb and postgres are. None when they are not installed."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@dataclass
class PostgresServer:
    """One server with trust on its own address. Databases are made per test."""

    folder: Path
    port: int
    address: str = "127.0.0.1"
    prefix: Sequence[str] = ()  # a command that runs another one elsewhere: ip netns exec NAME
    process: subprocess.Popen[bytes] | None = None
    made: list[str] = field(default_factory=list)

    def initialise(self) -> None:
        """Make the cluster's files."""
        bin_folder = binaries()
        if bin_folder is None:
            pytest.skip("no Postgres on this machine: apt-get install postgresql")
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self._run(bin_folder / "initdb", "-D", self.folder / "data", "-U", USER, "--auth=trust", "--no-sync")
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.address}/24 trust\n")

    def start(self) -> None:
        """Start and wait until it answers."""
        bin_folder = binaries()
        assert bin_folder is not None
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            [*self.prefix, *self._as_nobody(), str(bin_folder / "postgres"), "-D", str(self.folder / "data"),
             "-c", f"listen_addresses={self.address}", "-p", str(self.port), "-k", str(self.folder),
             "-c", "max_connections=200", "-c", "shared_buffers=16MB"],
            stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, start_new_session=True,
        )  # fmt: skip
        log.close()
        until = time.perf_counter() + START_WITHIN_S
        while True:
            try:
                self.connect("postgres").close()
            except psycopg.OperationalError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
                assert time.perf_counter() < until, "Postgres did not start"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """kill -9 of the postmaster. Its children notice and end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """An immediate shutdown, as of a machine that goes down."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        if self.process is None:
            return
        for pid in [*self._pids(), self.process.pid]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        self.process.wait(30)
        self.process = None

    def _pids(self) -> list[int]:
        try:
            return [int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])]
        except (OSError, ValueError, IndexError):
            return []

    def connect(self, database: str) -> psycopg.Connection:
        """By the server's socket: also from another network namespace."""
        return psycopg.connect(
            host=str(self.folder), port=self.port, user=USER, dbname=database, autocommit=True, connect_timeout=2
        )

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"ledger{len(self.made)}"
        self.made.append(name)
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY wal_log")
        return f"postgresql+psycopg://{USER}@{self.address}:{self.port}/{name}"

    @contextmanager
    def closed(self, url: str) -> Iterator[None]:
        """Nobody can connect to the database and those who are lose their connection."""
        name = url.rsplit("/", 1)[1]
        with self.connect("postgres") as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            with self.connect("postgres") as connection:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    def _run(self, *words: str | Path) -> None:
        done = subprocess.run(
            [*self._as_nobody(), *map(str, words)], cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def _as_nobody(self) -> list[str]:
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@contextmanager
def postgres_server(address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator[PostgresServer]:
    """A running server, gone with its files at the end. Skips where Postgres is not installed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    folder = Path(tempfile.mkdtemp(prefix="tw-pg-"))  # not tmp_path: its parents are closed to other users
    server = PostgresServer(folder, port, address, prefix)
    try:
        server.initialise()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
