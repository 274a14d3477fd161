"""Clients of the cluster: steady streams from another host, every answer looked at to its end."""

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from tests.cluster.hosts import Host


@dataclass
class Outcome:
    """How one request ended for its client. error: None for a whole answer."""

    url: str
    began_s: float
    ended_s: float = 0.0
    request_id: str | None = None
    error: str | None = None
    silent: bool = False  # the stream ended without [DONE] and without an error frame, on a connection closed in order


@dataclass
class Load:
    """`clients` threads on one host, each asking again as soon as it has its answer."""

    host: Host
    urls: list[str]
    key: str
    clients: int
    max_tokens: int = 20
    outcomes: list[Outcome] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let every client finish the answer it is reading."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a client waits for ever"

    def failed(self) -> list[Outcome]:
        """Those without a whole answer."""
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    def _run(self, number: int) -> None:
        self.host.enter()
        turn = number
        while not self._stop.is_set():
            turn += 1
            self.outcomes.append(ask(self.urls[turn % len(self.urls)], self.key, self.max_tokens, stream=turn % 3 > 0))


def ask(url: str, key: str, max_tokens: int, stream: bool) -> Outcome:
    """One request on a connection of its own, so that a proxy that goes away takes no later request with it."""
    body: dict[str, Any] = {
        "model": "auto", "stream": stream, "max_tokens": max_tokens, 
        "messages": [{"role": "user", "content": "Go on."}],
    }  # fmt: skip
    outcome = Outcome(url, time.time())
    try:
        with (
            httpx.Client(timeout=30) as client,
            client.stream(
                "POST", f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}
            ) as reply,
        ):
            outcome.request_id = reply.headers.get("x-tierwise-request-id")
            text = "".join(reply.iter_text())
            if reply.status_code != 200:
                outcome.error = f"{reply.status_code}: {text[:200]}"
            elif stream:
                outcome.error = stream_error(text)
                outcome.silent = outcome.error == "silent"
            else:
                said = json.loads(text)
                if said["usage"]["completion_tokens"] != max_tokens:
                    outcome.error = f"{said['usage']} instead of {max_tokens} tokens"
    except httpx.TransportError as error:
        outcome.error = f"connection: {type(error).__name__}"
    except ValueError as error:
        outcome.error = f"not JSON: {error}"
    outcome.ended_s = time.time()
    return outcome


def stream_error(text: str) -> str | None:
    """None for a stream that ended well; what its error frame says; `silent` for one that just stopped."""
    if text.rstrip().endswith("data: [DONE]"):
        return None
    for line in text.splitlines():
        if line.startswith("data: {") and "error" in (frame := json.loads(line.removeprefix("data: "))):
            return f"frame: {frame['error']['code']}"
    return "silent"
