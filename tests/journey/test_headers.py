"""What a response says of its own path: the same facts in headers, body and ledger row; no foreign word unchecked."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.golden import assert_golden
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import ok, variant

GOLDEN = Path(__file__).parent / "golden"
README = Path(__file__).resolve().parents[2] / "deploy" / "README.md"
NAMES = ["模型", "größe", "a\r\nset-cookie: x=1", "tab\tbed", "x" * 5000]


def own_headers(reply: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("x-tierwise-")}


def steady(facts: dict[str, Any]) -> str:
    """JSON without what differs from run to run: identifiers, times and what depends on them."""

    def clean(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(k, v) for k, v in value.items()}
        if isinstance(value, list):
            return [clean(key, item) for item in value]
        varies = re.search(r"request.id$|config|held_ms|cost_usd", key) and value is not None
        return f"<{type(value).__name__}>" if varies else value

    return json.dumps(clean("", facts), indent=2) + "\n"


async def test_golden_headers_and_metadata_of_an_accepted_draft(g: Gateway) -> None:
    reply = await g.chat()
    assert_golden(GOLDEN / "accepted.json", steady({**own_headers(reply), "tierwise": reply.json()["tierwise"]}))


async def test_golden_headers_and_metadata_of_a_rejected_draft(g: Gateway) -> None:
    g.tier1.script(Draft(text=""))
    g.upstream.script(ok("from the frontier"))
    reply = await g.chat()
    assert_golden(GOLDEN / "rejected.json", steady({**own_headers(reply), "tierwise": reply.json()["tierwise"]}))


async def test_every_fact_is_documented(g: Gateway) -> None:
    reply = await g.chat()
    _, _, section = README.read_text("utf-8").partition("## What a response says")
    section = section.partition("\n## ")[0]
    documented = re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)
    told = list(reply.json()["tierwise"])
    assert [name for name in documented if not name.startswith("x-")] == told
    known = {name for name in documented if name.startswith("x-")}
    assert set(own_headers(reply)) == known - {"x-tierwise-degraded", "x-tierwise-replayed"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_headers_metadata_and_row_say_the_same(g: Gateway, stream: bool) -> None:
    reply = await g.chat(stream=stream)
    if stream:
        chunks = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
        told = chunks[-1]["tierwise"]
    else:
        told = reply.json()["tierwise"]
    row = await g.row()
    assert told["request_id"] == reply.headers["x-tierwise-request-id"] == row.request_id
    assert told["tier"] == reply.headers["x-tierwise-tier"] == row.served_tier
    assert told["config_hash"] == reply.headers["x-tierwise-config"] == row.config_hash
    assert told["decision"] == reply.headers["x-tierwise-decision"] == row.decision.reason  # type: ignore[union-attr]
    assert told["cost_usd"] == row.cost_usd
    assert len(own_headers(reply)) <= 10


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", NAMES, ids=["chinese", "latin-1", "line-break", "tab", "long"])
async def test_providers_word_for_its_model_cannot_break_or_forge_a_header(g: Gateway, name: str, stream: bool) -> None:
    g.upstream.script(variant(ok("hello"), model=name))
    reply = await g.chat(model="frontier", stream=stream)
    assert reply.status_code == 200
    assert "hello" in reply.text
    assert "x-tierwise-model" not in reply.headers
    assert "set-cookie" not in reply.headers
    assert (await g.row()).served_model == name


async def test_configured_category_of_any_script_is_no_obstacle(start: StartGateway) -> None:
    async with start(policy={"categories": {"翻译": {"tier": "tier1"}}}) as g:
        reply = await g.chat(metadata={"category": "翻译"})
        assert reply.status_code == 200
        assert reply.json()["tierwise"]["category"] == "翻译"


async def test_clients_own_request_id_comes_back_if_it_can_be_a_header(g: Gateway) -> None:
    assert (await g.chat(headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    ours = (await g.chat(headers={"x-request-id": "x" * 129})).headers
    assert ours["x-request-id"] == ours["x-tierwise-request-id"]
