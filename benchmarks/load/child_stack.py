"""The stack as a child process under one setting after the other, in front of one stand-in frontier that stays up."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from benchmarks.load.client import new_session
from benchmarks.load.process import process
from routing.learning.release import MARK, RELEASE_FILE, Release, Variant
from routing.records import RequestRecord

START_TIMEOUT_S = 600.0
SETTLE_S = 30.0  # for rows to reach the ledger, and for a release to be applied
STANDIN_STOP_S = 30.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class LayersError(ValueError):
    """The benchmark cannot run with this profile, or the stack did not do what it was told."""


def read_profile(path: Path) -> dict[str, Any]:
    """A profile whose frontier is a stand-in on this machine. Raises LayersError: no provider is benchmarked."""
    tree: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    hosts = [urlsplit(provider.get("base_url", "")).hostname for provider in tree["frontier"]["providers"]]
    if not tree.get("standin") or any(host not in LOOPBACK for host in hosts):
        raise LayersError(f"{path}: the layers are measured against a stand-in frontier on this machine; it has none")
    return tree


@contextlib.contextmanager
def standin(profile: Mapping[str, Any]) -> Iterator[str]:
    """The stand-in frontier, starting. Yields its base URL. It ends with its standard input.

    Raises LayersError when its port is taken.
    """
    settings = profile["standin"]
    port = settings.get("port", 8001)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise LayersError(f"something listens on port {port} already: stop the stack that runs there")
    url = f"http://127.0.0.1:{port}"
    env = {
        **os.environ,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
    }
    if (threads := settings.get("cpu_threads")) is not None:
        env |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    command = [sys.executable, "-m", "serving.engine.standin"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, start_new_session=True)
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps(settings).encode() + b"\n")
        child.stdin.flush()
        yield url
    finally:
        child.stdin.close()
        try:
            child.wait(STANDIN_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()


class Stack:
    """One running stack: its address, its ledger and its release file."""

    def __init__(self, url: str, profile: Path, folder: Path, env: Mapping[str, str]) -> None:
        self.url = url
        self._profile, self._folder, self._env = profile, folder, env
        self._version = 0

    def lay_over(self, overrides: Mapping[str, Mapping[str, Any]]) -> None:
        """Change policy and gate while serving. Returns when that is what runs. Raises LayersError."""
        self._version += 1
        stable = Variant(version=self._version, overrides={name: dict(values) for name, values in overrides.items()})
        path = self._folder / RELEASE_FILE
        fresh = path.with_suffix(".new")
        fresh.write_text(Release(stable=stable).model_dump_json())
        fresh.replace(path)
        mark = f'{MARK}{self._version}"'
        until = time.perf_counter() + SETTLE_S
        while mark not in asyncio.run(fetch(f"{self.url}/metrics")):
            if time.perf_counter() > until:
                raise LayersError(
                    f"the stack did not take version {self._version} of policy and gate in {SETTLE_S:g} s"
                )
            time.sleep(0.2)

    def booked(self, request_ids: Collection[str]) -> dict[str, RequestRecord]:
        """The ledger's rows of these requests, as soon as all are there. Raises LayersError."""
        until = time.perf_counter() + SETTLE_S
        while True:
            done = subprocess.run(
                [sys.executable, "-m", "serving", "ledger", "export", "--config", str(self._profile)],
                env={**os.environ, **self._env}, capture_output=True, text=True, check=True,
            )  # fmt: skip
            rows = (RequestRecord.model_validate_json(line) for line in done.stdout.splitlines())
            found = {row.request_id: row for row in rows if row.request_id in request_ids}
            if len(found) == len(request_ids):
                return found
            if time.perf_counter() > until:
                raise LayersError(f"the ledger has {len(found)} of {len(request_ids)} requests after {SETTLE_S:g} s")


@contextlib.contextmanager
def stack(path: Path, profile: Mapping[str, Any], engines: Mapping[str, Mapping[str, Any]]) -> Iterator[Stack]:
    """A stack of the profile under a setting, every tier ready, with a ledger of its own."""
    gateway = profile.get("gateway", {})
    url = f"http://127.0.0.1:{gateway.get('port', 8000)}"
    with tempfile.TemporaryDirectory(prefix="tierwise-layers-") as folder:
        env = {
            "STACK_STANDIN": "null",  # ours is up already
            "STACK_LEDGER__URL": f"sqlite:///{folder}/ledger.sqlite3",
            "STACK_PROMOTION__REGISTRY": folder,
            **{
                f"STACK_{section}__{key}".upper(): json.dumps(value)
                for section, values in engines.items()
                if profile.get(section)
                for key, value in values.items()
            },
        }
        command = [sys.executable, "-m", "serving", "serve", str(path)]
        with process(command, f"{url}/readyz", env, START_TIMEOUT_S):
            yield Stack(url, path, Path(folder), env)


async def fetch(url: str) -> str:
    """The text behind an address. Raises RuntimeError for any status but 200."""
    async with new_session(30) as session, session.get(url) as reply:
        if reply.status != 200:
            raise RuntimeError(f"{url}: {reply.status}")
        return await reply.text()


async def forget(url: str) -> None:
    """Empty a vLLM server's prefix cache, so that no row finds what an earlier one left."""
    async with new_session(30) as session, session.post(f"{url}/reset_prefix_cache") as reply:
        reply.raise_for_status()
