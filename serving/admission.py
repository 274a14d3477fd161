"""At most so many answers in the making: what comes on top is told to come back, before its body is read."""

from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import QueueFull
from serving.release import retry_headers, send_json
from serving.telemetry import Telemetry


class Admission:
    """ASGI middleware: at most `limit` answers in the making; further ones get 429 before their body is read."""

    def __init__(self, app: ASGIApp, paths: Collection[str], limit: int, telemetry: Telemetry) -> None:
        self._app, self._paths, self._limit, self._telemetry = app, paths, limit, telemetry
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._limit:
            self._telemetry.refused.inc()
            error = QueueFull(f"{self._limit} requests are being answered already; retry shortly", retry_after_s=1)
            await send_json(send, error.http_status, error.body(), retry_headers(error))
            return
        self._in_flight += 1
        self._telemetry.in_flight.inc()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._telemetry.in_flight.dec()
