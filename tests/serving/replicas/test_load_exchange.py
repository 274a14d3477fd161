"""Trackers of two gateway processes over a real forwarder on loopback: what one books, the other counts."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest

from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.load_exchange import Forwarder, LoadExchange
from serving.replicas.routed_prompt import RoutedPrompt
from serving.replicas.tracker import ReplicaTracker

FACTS = {"block_size_tokens": 16, "kv_blocks": 100}
REPLICAS = ["a", "b"]


@pytest.fixture(scope="module")
def forwarder() -> Forwarder:
    return Forwarder("127.0.0.1")


@asynccontextmanager
async def ingress(
    forwarder: Forwarder, silent_after_s: float = 10
) -> AsyncGenerator[tuple[ReplicaTracker, LoadExchange], None]:
    tracker = ReplicaTracker(ReplicaRoutingConfig())
    exchange = LoadExchange(tracker, forwarder.addresses, silent_after_s)
    tracker.set_replicas(dict.fromkeys(REPLICAS, FACTS))
    try:
        yield tracker, exchange
    finally:
        tracker.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not true():  # noqa: ASYNC110 - nothing there announces itself
            await asyncio.sleep(0.005)


def prompt(request_id: str) -> RoutedPrompt:
    return RoutedPrompt(request_id, list(range(100)), "salt", None)


async def test_booking_here_is_work_there_until_it_ends(forwarder: Forwarder) -> None:
    async with ingress(forwarder) as (here, one), ingress(forwarder) as (there, other):
        await until(lambda: one.others == other.others == 1)
        chosen = here.rank(prompt("1"), REPLICAS)[0]
        load = there.replicas[chosen].load
        await until(lambda: load.waiting == 1)
        here.prefilled("1")
        await until(lambda: (load.waiting, load.outstanding) == (0, 1))
        here.call_ended("1")
        await until(lambda: load.outstanding == 0)


async def test_modelled_cache_learns_what_the_other_process_sent(forwarder: Forwarder) -> None:
    async with ingress(forwarder) as (here, one), ingress(forwarder) as (there, other):
        await until(lambda: one.others == other.others == 1)
        chosen = here.rank(prompt("1"), REPLICAS)[0]
        here.routed("1", chosen)
        await until(lambda: there.rank(prompt("2"), REPLICAS)[0] == chosen)
        choice = there.choice("2")
        assert choice is not None
        assert choice.expected_cached_tokens == 96


async def test_process_that_falls_silent_is_forgotten_with_its_bookings(forwarder: Forwarder) -> None:
    async with ingress(forwarder, silent_after_s=2.5) as (here, one):
        async with ingress(forwarder) as (there, other):
            await until(lambda: one.others == other.others == 1)
            chosen = there.rank(prompt("1"), REPLICAS)[0]
            await until(lambda: here.replicas[chosen].load.outstanding == 1)
        await until(lambda: here.replicas[chosen].load.outstanding == 0)
        assert one.others == 0


@pytest.mark.slow
async def test_forwarder_that_was_replaced_is_found_again() -> None:
    code = (
        "import asyncio, sys; from serving.replicas.load_exchange import Forwarder; "
        "print(*asyncio.run(Forwarder('127.0.0.1').addresses()), flush=True); sys.stdin.read()"
    )

    def start() -> tuple[subprocess.Popen[str], tuple[str, str]]:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert child.stdout is not None
        send_to, listen_to = child.stdout.readline().split()
        return child, (send_to, listen_to)

    first, addresses = await asyncio.to_thread(start)

    class Found(Forwarder):
        def __init__(self) -> None:
            """Runs elsewhere."""

        async def addresses(self) -> tuple[str, str]:
            return addresses

    async with ingress(Found(), 1.5) as (_, one), ingress(Found(), 1.5) as (_, other):
        await until(lambda: one.others == other.others == 1)
        first.kill()
        first.wait()
        second, addresses = await asyncio.to_thread(start)
        one._heard.clear()
        await until(lambda: one.others == 1)
        second.kill()
        second.wait()


async def test_telling_nobody_is_no_error() -> None:
    tracker = ReplicaTracker(ReplicaRoutingConfig())
    tracker.set_replicas(dict.fromkeys(REPLICAS, FACTS))
    LoadExchange(tracker, Forwarder.addresses)  # type: ignore[arg-type]  # never asked
    assert tracker.rank(prompt("1"), REPLICAS)
