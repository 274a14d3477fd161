"""Gateway processes tell each other at once which request they sent to which replica, so that all see the same load.

A forwarder (one Serve deployment) passes every message to all. A gateway process holds one socket to it and one from
it. Telling is one non-blocking send. A process that falls silent is forgotten with all it had booked.
"""

import asyncio
import contextlib
import threading
import time
import uuid
from array import array
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import ray
import zmq
import zmq.asyncio
from ray import serve
from ray.serve.handle import DeploymentHandle

from serving.process.loopback import keep_replica_on_loopback
from serving.replicas.load_news import LoadNews
from serving.replicas.tracker import ReplicaTracker

ALIVE_EVERY_S = 1.0
SILENT_AFTER_S = 10.0
# Longer than this on its way is a fault of the transport or of a clock.
MAX_DELAY_S = 1.0

Addresses = tuple[str, str]  # where to send, where to listen


class Message(msgspec.Struct, array_like=True, frozen=True):
    """What a gateway process tells the others.

    kind: "booked", "prefilled", "released", "mirrored" or "alive".
    sent_at: seconds of the wall clock, which machines share.
    keys: unsigned 64-bit block keys of "mirrored".
    """

    kind: str
    sender: str
    sent_at: float
    request_id: str = ""
    replica_id: str = ""
    input_tokens: int = 0
    uncached_tokens: int = 0
    keys: bytes = b""


class Forwarder:
    """Passes every message on to everyone who listens. A thread of ZeroMQ's own does the work."""

    def __init__(self, address: str | None = None) -> None:
        """address: of this node. None: the address by which Ray knows it."""
        host = ray.util.get_node_ip_address() if address is None else address
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        incoming, outgoing = context.socket(zmq.XSUB), context.socket(zmq.XPUB)
        ports = [socket.bind_to_random_port(f"tcp://{host}") for socket in (incoming, outgoing)]
        self._addresses = (f"tcp://{host}:{ports[0]}", f"tcp://{host}:{ports[1]}")
        threading.Thread(target=zmq.proxy, args=(incoming, outgoing), daemon=True, name="load-forwarder").start()

    async def addresses(self) -> Addresses:
        """Where to send, where to listen."""
        return self._addresses


class ForwarderReplica(Forwarder):
    """The forwarder as a Serve deployment."""

    def __init__(self) -> None:
        keep_replica_on_loopback()
        super().__init__()


def forwarder_deployment() -> serve.Application:
    """The application's one forwarder. Its handle goes into `LoadExchange`."""
    return (
        serve.deployment(ForwarderReplica)
        .options(name="load-forwarder", num_replicas=1, ray_actor_options={"num_cpus": 0})
        .bind()
    )


def asks(handle: DeploymentHandle) -> Callable[[], Awaitable[Addresses]]:
    """How an exchange finds the forwarder, also after it was replaced."""

    async def addresses() -> Addresses:
        found: Addresses = await handle.addresses.remote()
        return found

    return addresses


class LoadExchange(LoadNews):
    """Sends the news of this process's tracker to the others, and books theirs in it. The tracker runs it."""

    alone = False

    def __init__(
        self,
        tracker: ReplicaTracker,
        addresses: Callable[[], Awaitable[Addresses]],
        silent_after_s: float = SILENT_AFTER_S,
    ) -> None:
        self._tracker = tracker
        self._silent_after_s = silent_after_s
        self._addresses = addresses
        self._sender = uuid.uuid4().hex
        self._out: zmq.Socket[bytes] | None = None
        self._echo_at = 0.0  # perf_counter when a message of our own last came back: the forwarder lives
        self._heard: dict[str, float] = {}
        self._booked: dict[str, set[str]] = {}
        tracker.news = self

    @property
    def others(self) -> int:
        """See LoadNews."""
        return len(self._heard)

    def booked(self, request_id: str, replica_id: str, input_tokens: int, uncached_tokens: int) -> None:
        """See LoadNews."""
        self._tell("booked", request_id, replica_id, input_tokens, uncached_tokens)

    def prefilled(self, request_id: str, replica_id: str) -> None:
        """See LoadNews."""
        self._tell("prefilled", request_id, replica_id)

    def released(self, request_id: str, replica_id: str) -> None:
        """See LoadNews."""
        self._tell("released", request_id, replica_id)

    def mirrored(self, replica_id: str, keys: Sequence[int]) -> None:
        """See LoadNews."""
        self._tell("mirrored", "", replica_id, keys=array("Q", keys).tobytes())

    async def run(self) -> None:
        """Exchange until cancelled. Finds the forwarder again when it was replaced."""
        while True:
            try:
                send_to, listen_to = await self._addresses()
                await self._exchange(send_to, listen_to)
            except Exception:
                await asyncio.sleep(ALIVE_EVERY_S)

    async def _exchange(self, send_to: str, listen_to: str) -> None:
        out: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        listening = zmq.asyncio.Context.instance().socket(zmq.SUB)
        out.linger = listening.linger = 0
        try:
            out.connect(send_to)
            listening.connect(listen_to)
            listening.subscribe(b"")
            self._out, self._echo_at = out, time.perf_counter()
            tick_at = 0.0
            while time.perf_counter() - self._echo_at < self._silent_after_s:
                now = time.perf_counter()
                if now >= tick_at:
                    tick_at = now + ALIVE_EVERY_S
                    self._tell("alive")
                    self._forget_the_silent(now)
                if await listening.poll(int(1000 * max(0.0, tick_at - now)) + 1):
                    self._hear(msgspec.msgpack.decode(await listening.recv(), type=Message))
        finally:
            self._out = None
            out.close()
            listening.close()

    def _tell(self, kind: str, *facts: Any, keys: bytes = b"") -> None:
        if self._out is not None:
            message = Message(kind, self._sender, time.time(), *facts)
            if keys:
                message = msgspec.structs.replace(message, keys=keys)
            with contextlib.suppress(zmq.Again):
                self._out.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)

    def _hear(self, message: Message) -> None:
        now = time.perf_counter()
        if message.sender == self._sender:
            self._echo_at = now
            return
        self._heard[message.sender] = now
        booked = self._booked.setdefault(message.sender, set())
        match message.kind:
            case "booked":
                booked.add(message.request_id)
                decided_at = now - min(MAX_DELAY_S, max(0.0, time.time() - message.sent_at))
                self._tracker.remote.booked(
                    message.request_id, message.replica_id, message.input_tokens, message.uncached_tokens, decided_at
                )
            case "prefilled":
                self._tracker.remote.prefilled(message.request_id)
            case "released":
                booked.discard(message.request_id)
                self._tracker.remote.released(message.request_id)
            case "mirrored":
                self._tracker.remote.mirrored(message.replica_id, array("Q", message.keys))

    def _forget_the_silent(self, now: float) -> None:
        for sender in [sender for sender, at in self._heard.items() if now - at > self._silent_after_s]:
            del self._heard[sender]
            for request_id in self._booked.pop(sender, ()):
                self._tracker.remote.released(request_id)
