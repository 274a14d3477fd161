"""Spans of real requests reach a collector over OTLP; without the section nothing of them exists."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import ok

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "the launch code is 0000"


class Collector:
    """An OTLP/HTTP receiver on loopback; keeps the requests that it was sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        collector = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.received.append((self.path, body))
                reply = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join(10)

    def spans(self) -> list[Any]:
        """Every span that came."""
        requests = [ExportTraceServiceRequest.FromString(body) for _, body in self.received]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    with made.running():
        yield made


@asynccontextmanager
async def traced(start: StartGateway, collector: Collector) -> AsyncGenerator[Gateway, None]:
    """A gateway that sends its spans to the collector, at the latest when the block ends."""
    async with start(traces={"endpoint": collector.url}) as g:
        yield g


async def test_escalated_request_reaches_the_collector_as_one_trace(start: StartGateway, collector: Collector) -> None:
    async with traced(start, collector) as g:
        g.tier1.script(Draft(text=""))
        g.upstream.script(ok("the frontier says hello"))
        context = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        reply = await g.chat(headers=context)
        assert reply.json()["tierwise"]["tier"] == "frontier"
        await g.row()
    assert {path for path, _ in collector.received} == {"/v1/traces"}
    spans = {span.name: span for span in collector.spans()}
    assert set(spans) == {"chat auto", "route", "router", "draft", "verdict", "frontier"}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["chat auto"].parent_span_id.hex() == "00f067aa0ba902b7"
    assert spans["frontier"].start_time_unix_nano >= spans["draft"].end_time_unix_nano
    attributes = {a.key: a.value for a in spans["chat auto"].attributes}
    assert attributes["tierwise.request_id"].string_value == reply.headers["x-tierwise-request-id"]


@pytest.mark.parametrize("stream", [False, True])
async def test_no_text_of_prompt_or_answer_and_no_key_leaves_with_the_spans(
    start: StartGateway, collector: Collector, stream: bool
) -> None:
    """Nor the tenant's identifiers."""
    async with traced(start, collector) as g:
        g.tier1.script(Draft(text="It is kept in the safe."))
        await g.chat(
            SECRET, stream=stream, headers={"x-session-id": "session-of-theirs", "x-request-id": "id-of-theirs"}
        )
        await g.row()
    assert collector.spans()
    everything = b"".join(body for _, body in collector.received)
    for text in (SECRET, "launch", "safe", "session-of-theirs", "id-of-theirs", "sk-upstream-secret"):
        assert text.encode() not in everything


async def test_request_whose_client_left_has_its_spans(start: StartGateway, collector: Collector) -> None:
    async with traced(start, collector) as g:
        g.tier1.script(Draft(gate=asyncio.Event()))
        asking = asyncio.create_task(g.chat())
        await g.tier1.bell.until(lambda: g.tier1.running == 1, 10)
        asking.cancel()
        await g.row()
    root = next(span for span in collector.spans() if not span.parent_span_id)
    assert {a.key: a.value.string_value for a in root.attributes}["tierwise.outcome"] == "cancelled"


async def test_collector_that_is_away_costs_no_request_its_answer(start: StartGateway) -> None:
    async with start(traces={"endpoint": "http://127.0.0.1:9/v1/traces"}) as g:
        for _ in range(3):
            assert (await g.chat()).status_code == 200


async def test_without_the_section_there_are_no_spans(g: Gateway) -> None:
    assert (await g.chat()).status_code == 200
    assert g.stack.spans is None
