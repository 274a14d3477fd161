"""How an answer is written: one status before the first frame, one frame after it, nothing left running at the end."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from routing.records import Usage
from serving.api.http_json import retry_headers
from serving.errors import FrontierRejected, FrontierUnavailable, QueueFull, StackError, StreamBroken
from serving.gateway.response import DONE, KEEP_ALIVE, QUEUED_FRAMES, AnswerResponse, ResponseConfig
from serving.request.frame import Frame
from tests.journey.upstream_wire import Bell

CONFIG = ResponseConfig(hold_headers_s=30, keepalive_s=30, write_timeout_s=30)
USAGE = Usage(input_tokens=3, output_tokens=2)
METADATA = {"version": "1", "tier": "tier1"}
IN_FLIGHT_FRAMES = 4  # one with the writer, one waiting for room, one being made, one to spare


class Client:
    """The other end of an ASGI connection: what it was sent, and when it leaves or stops reading."""

    def __init__(self, reads: int | None = None) -> None:
        """reads: how many messages it takes before it stops reading; None: all."""
        self.sent: list[Message] = []
        self.bell = Bell()
        self.left = asyncio.Event()
        self._reads = reads

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._reads is not None and len(self.sent) >= self._reads:
            await asyncio.Event().wait()
        self.sent.append(message)
        self.bell.ring()

    @property
    def status(self) -> int:
        (start,) = [m for m in self.sent if m["type"] == "http.response.start"]
        return int(start["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent if m["type"] == "http.response.body")

    @property
    def chunks(self) -> list[dict[str, Any]]:
        return [json.loads(line[6:]) for line in self.body.decode().splitlines() if line.startswith("data: {")]

    @property
    def is_complete(self) -> bool:
        return self.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


class Source:
    """Frames, and whether the generator that gives them was closed."""

    def __init__(self, steps: Iterable[Frame | BaseException | Awaitable[Any]] = ()) -> None:
        self._steps = steps
        self.given = 0
        self.closed = asyncio.Event()
        self.bell = Bell()

    async def frames(self) -> AsyncGenerator[Frame, None]:
        try:
            for step in self._steps:
                if isinstance(step, BaseException):
                    raise step
                if not isinstance(step, Frame):
                    await step
                    continue
                self.given += 1
                self.bell.ring()
                yield step
        finally:
            self.closed.set()


def text(words: str, choice: int = 0) -> Frame:
    return Frame(data=json.dumps({"choices": [{"index": choice, "delta": {"content": words}}]}), text=words)


def finish(choice: int = 0) -> Frame:
    data = json.dumps({"choices": [{"index": choice, "delta": {}, "finish_reason": "stop"}]})
    return Frame(data=data, choice=choice, finish_reason="stop")


def usage() -> Frame:
    return Frame(data=json.dumps({"choices": [], "usage": {"total_tokens": 5}}), usage=USAGE)


def whole(content: str = "hello") -> Frame:
    return Frame(data=json.dumps({"choices": [{"message": {"content": content}}]}), usage=USAGE)


def released(
    source: Source, *, stream: bool = True, include_usage: bool = False, config: ResponseConfig = CONFIG
) -> AnswerResponse:
    return AnswerResponse(
        source.frames(),
        stream=stream,
        include_usage=include_usage,
        headers=lambda: {"x-tierwise-given": str(source.given)},
        metadata=lambda: METADATA,
        config=config,
    )


async def write(source: Source, client: Client | None = None, **options: Any) -> Client:
    """Write everything to a client; nothing of it is left running."""
    client = client or Client()
    before = asyncio.all_tasks()
    async with asyncio.timeout(10):
        await released(source, **options)({"type": "http"}, client.receive, client.send)
        assert source.closed.is_set()
        if leftover := asyncio.all_tasks() - before:  # a cancelled task needs one more round of the loop
            await asyncio.wait(leftover)
    return client


# Whole bodies


async def test_whole_answer_is_one_body_with_metadata_inside() -> None:
    client = await write(Source([whole("grüße")]), stream=False)
    assert client.status == 200
    assert json.loads(client.body)["choices"][0]["message"]["content"] == "grüße"
    assert json.loads(client.body)["tierwise"] == METADATA
    assert client.headers["content-length"] == str(len(client.body))
    assert client.headers["x-tierwise-given"] == "1"


async def test_frames_of_evidence_are_not_the_body() -> None:
    client = await write(Source([Frame(text="hel", n_tokens=1), Frame(text="lo", n_tokens=1), whole()]), stream=False)
    assert json.loads(client.body)["choices"][0]["message"]["content"] == "hello"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_answer_that_never_came_is_an_error(stream: bool) -> None:
    client = await write(Source([]), stream=stream)
    assert client.status == StreamBroken.status
    assert json.loads(client.body)["error"]["code"] == StreamBroken.code


# Errors


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("error", "status"),
    [(FrontierUnavailable("down"), 503), (FrontierRejected("no", upstream_status=422), 422), (QueueFull("full"), 429)],
)
async def test_error_before_the_first_frame_is_an_http_status(stream: bool, error: StackError, status: int) -> None:
    client = await write(Source([error]), stream=stream)
    assert client.status == status
    assert json.loads(client.body) == error.body()
    assert client.headers["content-type"] == "application/json"
    assert "x-tierwise-given" in client.headers


async def test_retry_after_is_sent_with_the_status() -> None:
    client = await write(Source([QueueFull("full", retry_after_s=1.2)]))
    assert client.headers["retry-after"] == "2"


@given(st.floats(0, 1e6))
def test_retry_after_is_never_early(seconds: float) -> None:
    told = int(retry_headers(QueueFull("full", retry_after_s=seconds))["retry-after"])
    assert max(seconds, 1) <= told < seconds + 1 or told == 1


def test_error_without_a_time_names_none() -> None:
    assert retry_headers(QueueFull("full")) == {}


async def test_error_after_the_first_frame_is_a_frame_and_there_is_no_done() -> None:
    """A clean end would be read as a complete answer."""
    client = await write(Source([text("half an"), StreamBroken("cut")]))
    assert client.status == 200
    said, error = client.chunks
    assert said["choices"][0]["delta"]["content"] == "half an"
    assert error == {**StreamBroken("cut").body(), "tierwise": METADATA}
    assert DONE not in client.body
    assert client.is_complete


async def test_chunk_that_waited_for_the_metadata_is_sent_before_the_error() -> None:
    client = await write(Source([text("one"), finish(0), StreamBroken("cut")]))
    _, finished, error = client.chunks
    assert finished["choices"][0]["finish_reason"] == "stop"
    assert "tierwise" not in finished
    assert "error" in error


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_unforeseen_error_is_a_500_without_a_detail(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    client = await write(Source([ValueError("the password is swordfish")]), stream=stream)
    assert client.status == 500
    assert json.loads(client.body)["error"]["code"] == "internal_error"
    assert b"swordfish" not in client.body
    assert "unforeseen" in caplog.text


async def test_unforeseen_error_after_the_first_frame_has_no_detail_either() -> None:
    client = await write(Source([text("half"), ValueError("the password is swordfish")]))
    assert client.chunks[-1]["error"]["code"] == "internal_error"
    assert b"swordfish" not in client.body
    assert DONE not in client.body


# Streams


@pytest.mark.parametrize("include_usage", [False, True], ids=["plain", "include-usage"])
async def test_metadata_is_in_the_very_last_chunk(include_usage: bool) -> None:
    client = await write(Source([text("one"), text(" two"), finish(), usage()]), include_usage=include_usage)
    assert client.headers["content-type"].startswith("text/event-stream")
    *others, last = client.chunks
    assert last["tierwise"] == METADATA
    assert not any("tierwise" in chunk for chunk in others)
    assert ("usage" in last) is include_usage
    assert client.body.endswith(DONE)
    assert client.body.count(DONE) == 1
    assert client.is_complete


async def test_usage_beside_choices_is_always_sent() -> None:
    data = json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 5}})
    client = await write(Source([text("one"), Frame(data=data, finish_reason="stop", usage=USAGE)]))
    assert client.chunks[-1]["usage"] == {"total_tokens": 5}


async def test_every_choice_is_finished_in_order() -> None:
    """n=2: neither finishing chunk is lost to the metadata, and a later text stays behind the earlier finish."""
    frames = [text("a", 0), text("b", 1), finish(0), text("c", 1), finish(1), usage()]
    client = await write(Source(frames))
    seen = [(c["choices"][0]["index"], c["choices"][0].get("finish_reason")) for c in client.chunks]
    assert seen == [(0, None), (1, None), (0, "stop"), (1, None), (1, "stop")]
    assert [("tierwise" in chunk) for chunk in client.chunks] == [False] * 4 + [True]


@given(st.lists(st.sampled_from(["text", "finish", "usage", "evidence"]), max_size=40), st.booleans())
def test_every_chunk_is_sent_once_in_order_and_the_last_has_the_metadata(kinds: list[str], include_usage: bool) -> None:
    frames = []
    for number, kind in enumerate(kinds):
        choices = [] if kind == "usage" else [{"index": 0, "delta": {}}]
        data = None if kind == "evidence" else json.dumps({"id": number, "choices": choices})
        frames.append(
            Frame(
                data=data,
                finish_reason="stop" if kind == "finish" else None,
                usage=USAGE if kind == "usage" else None,
            )
        )
    frames.append(Frame(data=json.dumps({"id": len(kinds), "choices": [{"index": 0}]}), finish_reason="stop"))
    client = asyncio.run(write(Source(frames), include_usage=include_usage))
    hidden = {"evidence"} if include_usage else {"evidence", "usage"}
    shown = [number for number, kind in enumerate(kinds) if kind not in hidden]
    assert [chunk["id"] for chunk in client.chunks] == [*shown, len(kinds)]
    assert ["tierwise" in chunk for chunk in client.chunks] == [False] * len(shown) + [True]


async def test_text_is_sent_as_soon_as_it_is_there() -> None:
    ready = asyncio.Event()
    client = Client()
    task = asyncio.create_task(write(Source([text("early"), ready.wait(), finish()]), client))
    await client.bell.until(lambda: b"early" in client.body)
    assert b"DONE" not in client.body
    ready.set()
    await task


# The hold


async def test_headers_wait_for_the_verdict() -> None:
    ready = asyncio.Event()
    client = Client()
    source = Source([ready.wait(), text("one"), finish()])
    task = asyncio.create_task(write(source, client))
    for _ in range(10):
        await asyncio.sleep(0)
    assert client.sent == []
    ready.set()
    await task
    assert client.headers["x-tierwise-given"] != "0"


async def test_held_stream_is_kept_alive_with_comments_that_clients_ignore() -> None:
    ready = asyncio.Event()
    client = Client()
    source = Source([ready.wait(), text("one"), finish()])
    quick = ResponseConfig(hold_headers_s=0, keepalive_s=0.01, write_timeout_s=30)
    task = asyncio.create_task(write(source, client, config=quick))
    await client.bell.until(lambda: client.body.count(KEEP_ALIVE) >= 3)
    assert (client.status, client.headers["x-tierwise-given"]) == (200, "0")
    ready.set()
    await task
    assert len([m for m in client.sent if m["type"] == "http.response.start"]) == 1
    assert KEEP_ALIVE.startswith(b":")
    assert client.body.endswith(DONE)
    assert client.chunks[-1]["tierwise"] == METADATA


async def test_comments_stop_with_the_first_frame() -> None:
    ready, more = asyncio.Event(), asyncio.Event()
    client = Client()
    quick = ResponseConfig(hold_headers_s=0, keepalive_s=0.01, write_timeout_s=30)
    source = Source([ready.wait(), text("one"), more.wait(), text("two"), finish()])
    task = asyncio.create_task(write(source, client, config=quick))
    await client.bell.until(lambda: KEEP_ALIVE in client.body)
    ready.set()
    await client.bell.until(lambda: b"one" in client.body)
    more.set()
    await task
    assert KEEP_ALIVE not in client.body.partition(b"one")[2]


async def test_error_during_the_hold_is_a_frame_once_headers_are_out() -> None:
    ready = asyncio.Event()
    client = Client()
    quick = ResponseConfig(hold_headers_s=0, keepalive_s=0.01, write_timeout_s=30)
    task = asyncio.create_task(write(Source([ready.wait(), FrontierUnavailable("down")]), client, config=quick))
    await client.bell.until(lambda: KEEP_ALIVE in client.body)
    ready.set()
    await task
    assert client.status == 200
    assert client.chunks[-1]["error"]["code"] == FrontierUnavailable.code
    assert DONE not in client.body


# Leaving and not reading


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_client_that_leaves_closes_the_generator(stream: bool) -> None:
    client = Client()
    source = Source([text("one"), asyncio.Event().wait()])
    task = asyncio.create_task(write(source, client, stream=stream))
    await source.bell.until(lambda: source.given == 1)
    assert not source.closed.is_set()
    client.left.set()
    await task
    assert source.closed.is_set()


async def test_client_that_leaves_before_anything_was_made_closes_the_generator() -> None:
    client = Client()
    client.left.set()
    source = Source([asyncio.Event().wait()])
    await write(source, client)
    assert client.sent == []


async def test_whoever_cancels_the_response_closes_the_generator() -> None:
    client = Client()
    source = Source([text("one"), asyncio.Event().wait()])
    task = asyncio.create_task(released(source)({"type": "http"}, client.receive, client.send))
    await client.bell.until(lambda: b"one" in client.body)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed.is_set()


async def test_client_that_takes_no_byte_for_too_long_is_dropped_and_the_generator_closed() -> None:
    client = Client(reads=2)
    source = Source(text(str(i)) for i in range(1000))
    impatient = ResponseConfig(hold_headers_s=30, keepalive_s=30, write_timeout_s=0.05)
    with pytest.raises(TimeoutError):
        await write(source, client, config=impatient)
    assert source.closed.is_set()
    assert len(client.sent) == 2


async def test_slow_reader_slows_the_source_instead_of_filling_memory() -> None:
    """What is not read is not generated."""
    client = Client(reads=1)
    source = Source(text(str(i)) for i in range(1000))
    task = asyncio.create_task(write(source, client))
    await source.bell.until(lambda: source.given > QUEUED_FRAMES)
    for _ in range(100):
        await asyncio.sleep(0)
    assert source.given <= QUEUED_FRAMES + IN_FLIGHT_FRAMES
    client.left.set()
    await task


async def test_reader_that_catches_up_gets_every_frame() -> None:
    client = Client()
    await write(Source([*(text(str(i)) for i in range(10 * QUEUED_FRAMES)), finish()]), client)
    said = [chunk["choices"][0]["delta"].get("content") for chunk in client.chunks[:-1]]
    assert said == [str(i) for i in range(10 * QUEUED_FRAMES)]
