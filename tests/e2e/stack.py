"""The whole stack as a user starts it: `python -m serving serve PROFILE` in a process of its own, on free ports."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "deploy" / "profiles" / "cpu.yaml"
READY_WITHIN_S = 900
STOPPED_WITHIN_S = 90


@dataclass
class RunningStack:
    """A stack that is up, and the ways a client has to talk to it."""

    url: str
    standin_url: str
    ledger: LedgerReader
    sdk: OpenAI
    asdk: AsyncOpenAI
    anthropic: Anthropic
    output: Path

    def row(self, request_id: str, within_s: float = 20) -> RequestRecord:
        """The ledger's row of a request, as soon as it is written."""
        return self._row(lambda row: row.request_id == request_id, within_s)

    def next_row(self, earlier: Collection[str], within_s: float = 20) -> RequestRecord:
        """The first row of a request that is not among the earlier ones, as soon as it is written."""
        return self._row(lambda row: row.request_id not in earlier, within_s)

    def _row(self, wanted: Callable[[RequestRecord], bool], within_s: float) -> RequestRecord:
        give_up = time.perf_counter() + within_s
        while time.perf_counter() < give_up:
            if (row := next(filter(wanted, self.ledger.latest(50)), None)) is not None:
                return row
            time.sleep(0.05)
        raise AssertionError(f"no such row in the ledger within {within_s} s")

    def metric(self, name: str, url: str | None = None) -> float:
        """The sum over all series of one metric whose text form begins with `name`."""
        text = httpx.get(f"{url or self.url}/metrics", timeout=10).text
        values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith(name)]
        assert values, f"no metric {name}"
        return sum(float(value) for value in values)

    def engine(self, tier: str, quantity: str) -> float:
        """One figure of our own engine's load."""
        return self.metric(f'tierwise_engine{{quantity="{quantity}",tier="{tier}"}}')


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_profile(folder: Path, changes: dict[str, dict[str, Any]]) -> tuple[Path, int, int]:
    """The embedded profile on free ports with its own ledger; (file, gateway port, stand-in port)."""
    tree = yaml.safe_load(PROFILE.read_text())
    gateway, standin = free_port(), free_port()
    tree["gateway"]["port"] = gateway
    tree["gateway"]["secret_file"] = str(folder / "secret")
    tree["standin"]["port"] = standin
    tree["frontier"]["providers"][0]["base_url"] = f"http://127.0.0.1:{standin}/v1"
    tree["ledger"]["url"] = f"sqlite:///{folder}/ledger.sqlite3"
    # Which draft a trained head takes is no matter of the paths tested here; who wants heads names them in `changes`.
    tree["policy"], tree["gate"] = {"default_threshold": 0.28}, {}
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    path = folder / "profile.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path, gateway, standin


@contextmanager
def running(folder: Path, **changes: dict[str, Any]) -> Iterator[RunningStack]:
    """Start the stack, wait until every tier has generated a token, stop it with Ctrl-C's signal."""
    profile, gateway, standin = write_profile(folder, changes)
    output = folder / "serve.log"
    url, standin_url = f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{standin}"
    with started(profile, output):
        yield RunningStack(
            url,
            standin_url,
            LedgerReader(LedgerConfig(url=f"sqlite:///{folder}/ledger.sqlite3")),
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300),
            AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300),
            Anthropic(base_url=standin_url, api_key="none", max_retries=0, timeout=300),
            output,
        )


@contextmanager
def started(profile: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m serving serve PROFILE`, its words in `output`; up when it says so, stopped with Ctrl-C's signal."""
    with output.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "serve", str(profile)],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
    try:
        wait_until_up(process, output)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert status == 0, f"serve ended with {status}:\n{output.read_text()[-3000:]}"


def wait_until_up(process: subprocess.Popen[bytes], output: Path) -> None:
    """Until the command prints the address to try."""
    give_up = time.perf_counter() + READY_WITHIN_S
    while not re.search(r"Ctrl-C stops everything", text := output.read_text(errors="replace")):
        assert process.poll() is None, f"serve ended with {process.returncode}:\n{text[-3000:]}"
        assert time.perf_counter() < give_up, f"not up within {READY_WITHIN_S} s:\n{text[-3000:]}"
        time.sleep(0.5)
