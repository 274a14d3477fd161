"""A scripted frontier provider over real HTTP: OpenAI's /v1/chat/completions and Anthropic's /v1/messages.

Each request takes the next script of the queue, or the default one, and plays it byte by byte, faults included.
The upstream keeps its own books (`Exchange.billed_*`), notes when a client hung up and how many calls ran at once.

    async with ScriptedUpstream() as upstream:
        upstream.script(error(500), ok("hello there"))
        client = HostedClient(config_for(upstream.base_url))
        ...
        assert upstream.exchanges[1].billed_output_tokens == 2
"""

import asyncio
import json
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Self

import h11

from tests.journey.upstream_scripts import (
    Fault,
    Script,
    ToolUse,
    UsageStyle,
    content_filter_200,
    content_filter_400,
    cut,
    empty_choices,
    error,
    hang,
    malformed_chunk,
    no_done,
    ok,
    overloaded,
    reset,
    silence,
    slow_first_token,
    stall,
    tool_call,
    tool_calls,
    variant,
)
from tests.journey.upstream_wire import WAIT_S, AnthropicDialect, Bell, Dialect, Exchange, OpenAIDialect

__all__ = [
    "Exchange",
    "Fault",
    "Script",
    "ScriptedUpstream",
    "ToolUse",
    "UsageStyle",
    "content_filter_200",
    "content_filter_400",
    "cut",
    "empty_choices",
    "error",
    "hang",
    "malformed_chunk",
    "no_done",
    "ok",
    "overloaded",
    "reset",
    "silence",
    "slow_first_token",
    "stall",
    "tool_call",
    "tool_calls",
    "variant",
]

READ_BYTES = 65536


class ClientLeft(Exception):
    """The client closed its side before the answer was complete."""


class HungUp(Exception):
    """The script ended the connection on purpose."""


class ScriptedUpstream:
    """The server. Runs in the test's own event loop on a free port of 127.0.0.1."""

    def __init__(self, default: Script | None = None, port: int = 0) -> None:
        self.default = default or ok("hello")
        self.exchanges: list[Exchange] = []
        self.connections_made = 0
        self.open_connections = 0
        self.in_flight = 0
        self.peak_in_flight = 0
        self._queue: deque[Script] = deque()
        self.bell = Bell()
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def script(self, *scripts: Script) -> Self:
        """Answer the next requests with these, in order."""
        self._queue.extend(scripts)
        return self

    def always(self, script: Script) -> Self:
        """Answer with this whenever the queue is empty, and empty it now."""
        self._queue.clear()
        self.default = script
        return self

    @property
    def url(self) -> str:
        """http://127.0.0.1:port, what the Anthropic SDK takes."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """The address with /v1, what the OpenAI SDK takes."""
        return f"{self.url}/v1"

    @property
    def calls(self) -> int:
        """How many completion requests arrived."""
        return len(self.exchanges)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """The JSON bodies, in order of arrival."""
        return [exchange.body for exchange in self.exchanges]

    @property
    def billed_output_tokens(self) -> int:
        """Output tokens over all exchanges, by the provider's books."""
        return sum(exchange.billed_output_tokens for exchange in self.exchanges)

    @property
    def billed_input_tokens(self) -> int:
        """Input tokens over all exchanges, by the provider's books."""
        return sum(exchange.billed_input_tokens for exchange in self.exchanges)

    async def received(self, calls: int, timeout_s: float = WAIT_S) -> Exchange:
        """Wait until so many requests have arrived; the last of them."""
        await self.bell.until(lambda: self.calls >= calls, timeout_s)
        return self.exchanges[calls - 1]

    async def idle(self, timeout_s: float = WAIT_S) -> None:
        """Wait until no request is being answered any more."""
        await self.bell.until(lambda: not self.in_flight, timeout_s)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections_made += 1
        self.open_connections += 1
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass  # the peer left, or the test ended: this connection is over either way
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.close()

    def take_script(self, body: Mapping[str, Any]) -> Script:
        """What the next request is answered with; body: what it asks."""
        return self._queue.popleft() if self._queue else self.default

    def began(self, exchange: Exchange) -> None:
        """Note a request that arrived."""
        self.exchanges.append(exchange)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        self.bell.ring()

    def ended(self, exchange: Exchange) -> None:
        """Note that a request is over, one way or another."""
        self.in_flight -= 1
        self.bell.ring()


class _Connection:
    """One keep-alive connection: read a request, play its script, note when the client leaves."""

    def __init__(self, upstream: ScriptedUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upstream, self.reader, self.writer = upstream, reader, writer
        self.http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        while (received := await self._request()) is not None:
            path, headers, raw = received
            if path == "/reset_prefix_cache":  # a vLLM stand-in's way to forget
                self._send_json(200, {})
            elif path not in ("/v1/chat/completions", "/v1/messages"):
                self._send_json(404, {"error": {"message": f"no route {path}", "type": "not_found", "code": None}})
            else:
                try:
                    await self._exchange(path, headers, json.loads(raw))
                except (ClientLeft, HungUp, ConnectionError):
                    return
            if self.http.our_state is not h11.DONE:
                return
            self.http.start_next_cycle()

    async def _request(self) -> tuple[str, dict[str, str], bytes] | None:
        request, body = None, b""
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(READ_BYTES))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert request is not None
                headers = {name.decode().lower(): value.decode() for name, value in request.headers}
                return request.target.decode().split("?")[0], headers, body
            else:  # ConnectionClosed
                return None

    async def _exchange(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> None:
        upstream = self.upstream
        exchange = Exchange(path, headers, body, upstream.take_script(body), bell=upstream.bell)
        upstream.began(exchange)
        playing = asyncio.create_task(self._play(exchange))
        watching = asyncio.create_task(self.reader.read(1))
        try:
            await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                early = watching.result()
                if not early and not playing.done():
                    raise ClientLeft
                self.http.receive_data(early)  # the first byte of the next request
            await playing
        except (ClientLeft, ConnectionError):
            exchange.left_at = time.perf_counter()
            exchange.left.set()
            raise
        finally:
            for task in (playing, watching):
                task.cancel()
            await asyncio.gather(playing, watching, return_exceptions=True)
            exchange.ended.set()
            upstream.ended(exchange)

    async def _play(self, exchange: Exchange) -> None:
        script = exchange.script
        dialect: Dialect = (AnthropicDialect if exchange.path == "/v1/messages" else OpenAIDialect)(exchange)
        await asyncio.sleep(script.delay_s)
        if script.fault is Fault.SILENCE:
            await asyncio.Event().wait()
        if script.fault is Fault.RESET and script.fault_after == 0:
            self._reset()
        if script.status != 200:
            self._send_json(script.status, dialect.error(script.error_body), script.headers)
        elif exchange.streamed:
            await self._stream(exchange, dialect)
        else:
            await self._whole(script, dialect)
        await self.writer.drain()

    async def _whole(self, script: Script, dialect: Dialect) -> None:
        match script.fault:
            case Fault.CUT | Fault.CLEAN_CUT | Fault.RESET:
                self._reset()
            case Fault.ERROR_EVENT:
                self._send_json(529, dialect.error({"type": "overloaded_error", "message": "Overloaded"}))
                return
            case Fault.STALL:
                await (script.until or asyncio.Event()).wait()
        await asyncio.sleep(script.first_token_delay_s + script.token_delay_s * len(script.tokens))
        self._send_json(200, dialect.whole(), script.headers)

    async def _stream(self, exchange: Exchange, dialect: Dialect) -> None:
        script = exchange.script
        headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **script.headers}
        self._send(h11.Response(status_code=200, headers=list(headers.items())))
        exchange.billed_input_tokens = dialect.input_tokens
        self._events(dialect.opening())
        await self.writer.drain()
        await self._think(script, dialect)
        steps = list(dialect.steps())
        before = len(steps) if script.fault in (Fault.NONE, Fault.HANG) else min(script.fault_after, len(steps))
        await self._steps(exchange, dialect, steps, range(before))
        match script.fault:
            case Fault.RESET:
                self._reset()
            case Fault.CUT:
                self.writer.close()  # what was written is still sent
                raise HungUp
            case Fault.STALL:
                await (script.until or asyncio.Event()).wait()
                await self._steps(exchange, dialect, steps, range(before, len(steps)))
            case Fault.ERROR_EVENT:
                self._events(dialect.error_event())
        if script.fault in (Fault.NONE, Fault.STALL, Fault.HANG):
            self._events(dialect.closing())
        if script.fault is Fault.HANG:
            await asyncio.Event().wait()
        self._send(h11.EndOfMessage())

    async def _think(self, script: Script, dialect: Dialect) -> None:
        left_s = script.first_token_delay_s
        while script.ping_every_s is not None and left_s > script.ping_every_s:
            await asyncio.sleep(script.ping_every_s)
            left_s -= script.ping_every_s
            self._events(dialect.empty())
            await self.writer.drain()
        await asyncio.sleep(left_s)

    async def _steps(self, exchange: Exchange, dialect: Dialect, steps: list[list[str]], numbers: range) -> None:
        for number in numbers:
            if exchange.script.malformed_at == number:
                self._events(['data: {"id": "broken", "choi'])
            if exchange.script.empty_choices_at == number:
                self._events(dialect.empty())
            self._events(steps[number])
            exchange.billed_output_tokens += 1
            exchange.bell.ring()
            await self.writer.drain()
            await asyncio.sleep(exchange.script.token_delay_s)

    def _events(self, events: Iterable[str]) -> None:
        for event in events:
            self._send(h11.Data(data=event.encode() + b"\n\n"))

    def _send_json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        given = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        self._send(h11.Response(status_code=status, headers=list(given.items())))
        self._send(h11.Data(data=data))
        self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        self.writer.write(self.http.send(event) or b"")

    def _reset(self) -> NoReturn:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        raise HungUp
