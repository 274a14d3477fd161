"""Writes released frames to the client: headers with the verdict, keep-alive, metadata, error frame.

One task pulls the cascade's frames, one writes them, one waits for the client to leave. When one of the last two ends,
all are ended. A queue of a few frames stands between them, so that a slow reader slows the engine and memory stays
small.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from pydantic import Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from routing.records import Record
from serving.api.http_json import encode, retry_headers, send_json
from serving.errors import StackError, StreamBroken
from serving.request.frame import Frame

log = logging.getLogger(__name__)

KEEP_ALIVE = b": waiting for the verdict\n\n"
DONE = b"data: [DONE]\n\n"
QUEUED_FRAMES = 16  # decouples the tasks, and is so small that a slow reader slows the engine at once


class ResponseConfig(Record):
    """How a response is written."""

    hold_headers_s: float = Field(2.0, ge=0, description="send headers without the verdict after this long")
    keepalive_s: float = Field(5.0, gt=0, description="gap between SSE comments while a stream is held")
    write_timeout_s: float = Field(30.0, gt=0, description="a client that accepts no byte for this long is dropped")


class AnswerResponse(Response):
    """An ASGI response whose frames come from the cascade.

    headers, metadata: called when they are written, so that they carry all that is known by then.
    """

    def __init__(
        self,
        frames: AsyncGenerator[Frame, None],
        *,
        stream: bool,
        include_usage: bool,
        headers: Callable[[], Mapping[str, str]],
        metadata: Callable[[], dict[str, Any]],
        config: ResponseConfig,
    ) -> None:
        super().__init__()
        self._frames, self._stream, self._include_usage = frames, stream, include_usage
        self._late_headers, self._metadata, self._config = headers, metadata, config
        self._queue: asyncio.Queue[Frame | StackError | None] = asyncio.Queue(QUEUED_FRAMES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run until the response is written or the client is gone. No task is left behind."""
        pump = asyncio.create_task(self._pump())
        gone = asyncio.create_task(client_gone(receive))
        write = asyncio.create_task(self._write(send))
        try:
            await asyncio.wait({gone, write}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (write, gone, pump):
                task.cancel()
            await asyncio.gather(write, gone, pump, return_exceptions=True)
        if not write.cancelled() and (error := write.exception()) is not None:
            raise error

    async def _pump(self) -> None:
        """Pull frames into the queue. Its last item is what ended them: None or the error."""
        try:
            try:
                async for frame in self._frames:
                    await self._queue.put(frame)
            finally:
                await self._frames.aclose()
        except StackError as error:
            await self._queue.put(error)
        except Exception:
            log.exception("request failed in an unforeseen way")
            await self._queue.put(StackError("internal error; the logs have the details under this request id"))
        else:
            await self._queue.put(None)

    async def _next(self) -> Frame | None:
        """The next frame, None at the end. Raises the StackError that the cascade raised."""
        item = await self._queue.get()
        if isinstance(item, StackError):
            raise item
        return item

    async def _write(self, send: Send) -> None:
        timed = self._timed(send)
        await (self._write_stream(timed) if self._stream else self._write_body(timed))

    def _timed(self, send: Send) -> Send:
        async def bounded(message: Any) -> None:
            async with asyncio.timeout(self._config.write_timeout_s):
                await send(message)

        return bounded

    async def _write_body(self, send: Send) -> None:
        """One JSON body with the decision metadata inside."""
        try:
            body: dict[str, Any] | None = None
            while (frame := await self._next()) is not None:
                if frame.data is not None:
                    body = json.loads(frame.data)
            if body is None:
                raise StreamBroken("the serving tier ended without an answer")
        except StackError as error:
            await send_json(send, error.http_status, error.body(), {**self._late_headers(), **retry_headers(error)})
            return
        body["tierwise"] = self._metadata()
        await send_json(send, 200, body, self._late_headers())

    async def _write_stream(self, send: Send) -> None:
        """Server-sent events.

        Until the headers are sent an error is an HTTP status. Afterwards it is a frame, and no [DONE] follows.
        """
        started = False

        async def start() -> None:
            nonlocal started
            started = True
            headers = {
                "content-type": "text/event-stream; charset=utf-8",
                "cache-control": "no-store",
                **self._late_headers(),
            }
            await send({"type": "http.response.start", "status": 200, "headers": encode(headers)})

        async def write(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        last: str | None = None  # a chunk that ends a choice waits: the very last one carries the metadata
        try:
            first = asyncio.create_task(self._next())
            try:
                patience_s = self._config.hold_headers_s
                while not (await asyncio.wait({first}, timeout=patience_s))[0]:
                    if not started:
                        await start()
                    await write(KEEP_ALIVE)
                    patience_s = self._config.keepalive_s
            finally:
                first.cancel()  # a no-op unless this task is being cancelled
            frame = await first
            if frame is None:
                raise StreamBroken("the serving tier ended without an answer")
            if not started:
                await start()
            while frame is not None:
                if frame.data is not None and (self._include_usage or not is_usage_only(frame)):
                    if last is not None:
                        await write(sse(last))
                        last = None
                    if frame.finish_reason is not None or frame.usage is not None:
                        last = frame.data
                    else:
                        await write(sse(frame.data))
                frame = await self._next()
            if last is not None:
                chunk = json.loads(last)
                chunk["tierwise"] = self._metadata()
                await write(sse(json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))))
            await write(DONE)
        except StackError as error:
            if not started:
                await send_json(send, error.http_status, error.body(), {**self._late_headers(), **retry_headers(error)})
                return
            if last is not None:
                await write(sse(last))
            await write(sse(json.dumps({**error.body(), "tierwise": self._metadata()})))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def client_gone(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


def is_usage_only(frame: Frame) -> bool:
    """Whether a chunk carries usage and no choice. Only clients that asked for usage get it."""
    return frame.usage is not None and frame.data is not None and not json.loads(frame.data).get("choices")


def sse(data: str) -> bytes:
    """One server-sent event."""
    return f"data: {data}\n\n".encode()
