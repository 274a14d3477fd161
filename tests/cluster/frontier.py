"""A frontier for the cluster: an OpenAI chat server on one host that always has an answer, as long as was asked for."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from tests.cluster.hosts import Host

PORT = 8101


class Answer(BaseHTTPRequestHandler):
    """POST /v1/chat/completions, whole or streamed."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        text = "".join(f" frontier{n}" for n in range(words))
        usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
        head = {"id": "chatcmpl-f", "created": 1, "model": body["model"]}
        if body.get("stream"):
            chunk = head | {"object": "chat.completion.chunk"}
            parts: list[dict[str, Any]] = [
                chunk | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]},
                chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                chunk | {"choices": [], "usage": usage},
            ]
            data = "".join(f"data: {json.dumps(part)}\n\n" for part in parts) + "data: [DONE]\n\n"
            self.say(data.encode(), "text/event-stream")
            return
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        whole = head | {"object": "chat.completion", "choices": choices, "usage": usage}
        self.say(json.dumps(whole).encode(), "application/json")

    def do_GET(self) -> None:
        self.say(b'{"object": "list", "data": []}', "application/json")

    def say(self, data: bytes, kind: str) -> None:
        """One whole response."""
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing: a test reads the ledger."""


@contextmanager
def frontier(host: Host) -> Iterator[None]:
    """The server, listening on the host's address."""
    server = host.call(lambda: ThreadingHTTPServer((host.address, PORT), Answer))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
