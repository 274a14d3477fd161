"""JSON over ASGI, and the headers that say when to try again."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import Send

from serving.errors import StackError


def encode(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them."""
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


def retry_headers(error: StackError) -> dict[str, str]:
    """Headers that tell a client's own retries when to come back, or not to retry at once.

    retry-after: whole seconds, rounded up.
    """
    headers = {"x-should-retry": "false"} if error.tried_out else {}  # the openai and anthropic SDKs heed it
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, -int(-error.retry_after_s // 1)))
    return headers


async def send_json(send: Send, status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """A whole JSON response."""
    raw = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    head = {"content-type": "application/json", "content-length": str(len(raw)), **headers}
    await send({"type": "http.response.start", "status": status, "headers": encode(head)})
    await send({"type": "http.response.body", "body": raw})
