"""Limits how many requests are answered at once. Further ones get 429 before their body is read."""

from collections.abc import Collection
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.http_json import retry_headers, send_json
from serving.errors import QueueFull


class AdmissionObserver(Protocol):
    """Hears about every request, so that those being answered can be counted."""

    def admitted(self) -> None:
        """A request was let in."""
        ...

    def ended(self) -> None:
        """A request that was let in has ended, in whatever way."""
        ...

    def refused_full(self) -> None:
        """A request came while the limit was reached."""
        ...


class Admission:
    """ASGI middleware that answers at most `limit` requests to `paths` at a time."""

    def __init__(self, app: ASGIApp, paths: Collection[str], limit: int, observer: AdmissionObserver) -> None:
        self._app, self._paths, self._limit, self._observer = app, paths, limit, observer
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it."""
        if scope["type"] != "http" or scope["path"] not in self._paths:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._limit:
            self._observer.refused_full()
            error = QueueFull(f"{self._limit} requests are being answered already; retry shortly", retry_after_s=1)
            await send_json(send, error.http_status, error.body(), retry_headers(error))
            return
        self._in_flight += 1
        self._observer.admitted()
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self._observer.ended()
