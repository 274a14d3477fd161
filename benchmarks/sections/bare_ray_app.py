"""Bare Ray Serve: an ingress that does nothing and an engine that does nothing, in the shape of the stack.

Run as a process of its own: `python -m benchmarks.sections.bare_ray_app PORT`. /one makes one streamed handle call,
/two a plain call and then a streamed one, as the stack does when it asks its router first. What the stack takes beyond
this is our code.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")  # as serving/__main__.py
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keep to loopback, as the stack does

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Receive, Scope, Send

SSE = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]


class Engine:
    """Says words."""

    async def words(self, count: int) -> AsyncGenerator[str, None]:
        """One chunk a word."""
        for i in range(count):
            yield json.dumps({"choices": [{"index": 0, "delta": {"content": f" word{i}"}}]})

    async def score(self) -> float:
        """One number."""
        return 0.9


@serve.ingress()
class Ingress:
    """Reads the body, calls the engine, writes what it says."""

    def __init__(self, engine: DeploymentHandle) -> None:
        self._words = engine.options(method_name="words", stream=True)
        self._score = engine.options(method_name="score")

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The name Ray Serve looks for."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        return app  # a function: uvicorn would take a bound method for an ASGI 2 application

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
            return
        raw = b""
        while True:
            message = await receive()
            raw += message.get("body", b"")
            if not message.get("more_body"):
                break
        body: dict[str, Any] = json.loads(raw or b"{}")
        if scope["path"] == "/two":
            await self._score.remote()
        chunks = self._words.remote(body.get("max_tokens", 1))
        stream = bool(body.get("stream"))
        if stream:
            await send({"type": "http.response.start", "status": 200, "headers": SSE})
        last = "{}"
        async for last in chunks:
            if stream:
                await send({"type": "http.response.body", "body": f"data: {last}\n\n".encode(), "more_body": True})
        if not stream:
            await send({"type": "http.response.start", "status": 200, "headers": JSON})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if stream else last.encode()})


def main(port: int) -> None:
    """Serve on a loopback port until SIGTERM."""
    ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    engine = serve.deployment(Engine).options(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0}).bind()
    app = serve.deployment(Ingress).options(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0}).bind(engine)
    serve.run(app, name="floor", route_prefix="/")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
