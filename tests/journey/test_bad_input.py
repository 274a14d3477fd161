"""Bad requests are refused at the door: OpenAI's error shape, the field named, no tier called, nothing booked."""

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest

from routing.records import DecisionReason
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.upstream import ok

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "hello"}


def assert_openai_error(reply: httpx.Response, status: int, param: str | None = None) -> None:
    """OpenAI's error object and nothing else: no trace, no HTML."""
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in reply.text
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(
    "raw",
    [b"", b"not json", b"\xef\xbb\xbf{}", b'{"a":1} {"b":2}', b"[]", b'"text"', b"\xff\xfe"],
    ids=["empty", "text", "bom", "two-values", "array", "string", "utf16"],
)
async def test_body_that_is_not_one_json_object_is_refused(g: Gateway, raw: bytes) -> None:
    reply = await g.http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert_openai_error(reply, 400)
    assert reply.json()["error"]["type"] == "invalid_request_error"


async def test_body_past_the_limit_is_refused_before_it_is_read(start: StartGateway) -> None:
    """With a declared length and chunked without one. The connection is given up at the limit."""
    async with start(gateway={"max_body_bytes": 2048}) as g:
        body = {"model": "auto", "messages": [{"role": "user", "content": "x" * 4096}]}
        assert_openai_error(await g.http.post(CHAT, json=body), 413)
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            for _ in range(10_000):
                sent += 1024
                yield b"x" * 1024
                await asyncio.sleep(0)

        try:
            reply = await g.http.post(CHAT, content=endless(), headers={"content-type": "application/json"})
            assert_openai_error(reply, 413)
        except httpx.TransportError:
            pass  # the server answered and closed while we were still sending
        assert sent < 10_000 * 1024, "the whole body was taken in"
        assert g.tier1.calls == []


async def test_compressed_body_is_refused_without_inflating_it(g: Gateway) -> None:
    """A gzip bomb stays a few kilobytes."""
    bomb = gzip.compress(b" " * 50_000_000)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert_openai_error(await g.http.post(CHAT, content=bomb, headers=headers), 415)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"auto","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"model":"auto","model":"tier1","messages":[]}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
        b'{"model":"auto","messages":[{"role":"user","content":"x"}],"temperature":Infinity}',
    ],
    ids=["depth", "duplicate-keys", "nan", "infinity"],
)
async def test_hostile_json_is_refused(g: Gateway, raw: bytes) -> None:
    reply = await g.http.post(CHAT, content=raw, headers={"content-type": "application/json"})
    assert_openai_error(reply, 400)


IMAGE = [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}}]

BAD_FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("5 messages missing", {"messages": ...}, "messages"),
    ("5 messages empty", {"messages": []}, "messages"),
    ("5 messages null", {"messages": None}, "messages"),
    ("5 messages text", {"messages": "hello"}, "messages"),
    ("5 unknown role", {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ("6 n zero", {"n": 0}, "n"),
    ("6 n negative", {"n": -1}, "n"),
    ("6 n huge", {"n": 10**9}, "n"),
    ("6 best_of", {"best_of": 4}, "best_of"),
    ("7 max_tokens zero", {"max_tokens": 0}, "max_tokens"),
    ("7 max_tokens negative", {"max_tokens": -1}, "max_tokens"),
    ("7 max_tokens huge", {"max_tokens": 10**9}, "max_tokens"),
    ("7 min_tokens", {"min_tokens": 5, "max_tokens": 2}, "min_tokens"),
    ("8 temperature", {"temperature": 2.5}, "temperature"),
    ("8 top_p", {"top_p": 1.5}, "top_p"),
    ("8 stop list", {"stop": ["x"] * 1000}, "stop"),
    ("8 logit_bias id", {"logit_bias": {"abc": 1}}, "logit_bias"),
    *(
        (f"9 {name}", {name: value}, name)
        for name, value in {
            "cache_salt": "x",
            "priority": -5,
            "prompt_embeds": "x",
            "kv_transfer_params": {"prompt_token_ids": [1]},
            "logprob_token_ids": [1],
            "vllm_xargs": {"a": 1},
        }.items()
    ),
    ("14 image", {"messages": [{"role": "user", "content": IMAGE}]}, "messages[0].content[0].type"),
    ("15 base url", {"api_base": "http://127.0.0.1:1/"}, "api_base"),
    ("unknown model", {"model": "gpt-4"}, "model"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), [case[1:] for case in BAD_FIELDS], ids=[case[0] for case in BAD_FIELDS])
async def test_bad_field_is_refused_by_name_and_reaches_no_tier(g: Gateway, change: dict[str, Any], param: str) -> None:
    body = {"model": "auto", "messages": [USER], **change}
    reply = await g.http.post(CHAT, json={k: v for k, v in body.items() if v is not ...})
    assert reply.status_code in (400, 404)
    assert_openai_error(reply, reply.status_code)
    assert reply.json()["error"]["param"].startswith(param.split("[", maxsplit=1)[0])
    assert g.tier1.calls == []
    assert g.upstream.calls == 0


@pytest.mark.parametrize(
    "prompt", [["a"] * 1_000_000, ["a", "b"], [], "", [10**9]], ids=["million", "two", "none", "empty", "id"]
)
async def test_completions_take_one_prompt(g: Gateway, prompt: Any) -> None:
    reply = await g.http.post("/v1/completions", json={"model": "auto", "prompt": prompt})
    assert_openai_error(reply, 400)


async def test_hostile_tenant_name_still_gives_a_salt_of_its_own(g: Gateway) -> None:
    """The salt is a keyed hash, whatever the tenant is called."""
    await g.chat()
    salt = g.tier1.calls[0].cache_salt
    assert len(salt) == 64
    assert int(salt, 16) >= 0
    assert g.tier1.calls[0].tenant not in salt


async def test_one_client_request_id_sent_twice_at_once_gives_two_requests(g: Gateway) -> None:
    """The id is echoed, never used inside."""
    headers = {"x-request-id": "same-id"}
    first, second = await asyncio.gather(g.chat("one", headers=headers), g.chat("two", headers=headers))
    assert first.headers["x-request-id"] == second.headers["x-request-id"] == "same-id"
    assert len({call.request_id for call in g.tier1.calls}) == 2
    assert "same-id" not in {call.request_id for call in g.tier1.calls}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Basic abc",
        "Bearer tw-wrong",
        "Bearer ' OR 1=1 --",
        "Bearer " + "x" * 30_000,
    ],
    ids=["missing", "scheme", "unknown", "sql", "long"],
)
async def test_wrong_key_is_401_without_detail(start: StartGateway, tmp_path: Any, header: str | None) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text("keys: []\n")
    async with start(gateway={"keys_file": str(keys)}) as g:
        reply = await g.chat(headers={"authorization": header} if header else None)
        assert_openai_error(reply, 401)
        assert g.tier1.calls == []


@pytest.mark.parametrize(
    "path",
    ["//v1/chat/completions", "/v1/../metrics", "/v1/%2e%2e/metrics", "/invocations", "/collective_rpc", "/tokenize",
     "/v1/load_lora_adapter", "/docs"],
)  # fmt: skip
async def test_no_path_but_ours_is_answered(g: Gateway, path: str) -> None:
    """Sent as written, without the client normalising it."""
    reader, writer = await asyncio.open_connection(g.http.base_url.host, g.http.base_url.port)
    raw = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{{}}"
    writer.write(raw.encode())
    status = await reader.readline()
    writer.close()
    assert status.split(maxsplit=2)[1] in (b"404", b"405"), status


async def test_too_long_for_tier_1_goes_straight_to_the_frontier_with_one_bill(g: Gateway) -> None:
    g.upstream.script(ok("a long story"))
    reply = await g.chat("word " * 5000)
    assert reply.json()["tierwise"]["decision"] == DecisionReason.CONTEXT
    assert g.tier1.calls == []
    assert len((await g.row()).attempts) == 1


async def test_too_long_for_every_tier_is_refused(g: Gateway) -> None:
    reply = await g.chat("word " * 20_000)
    assert_openai_error(reply, 400)
    assert reply.json()["error"]["code"] == "context_length_exceeded"
    assert g.upstream.calls == 0


async def test_every_error_is_json_also_for_unknown_methods(g: Gateway) -> None:
    assert_openai_error(await g.http.get("/v1/nothing"), 404)
    assert_openai_error(await g.http.get(CHAT), 405)
    assert json.loads((await g.http.get("/healthz")).text) == {"status": "ok"}
