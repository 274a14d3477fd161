"""Keys end to end: whose request it is, who is turned away, and that no key is ever written down."""

import logging
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
import yaml

from serving.access.keys import KeyEntry, new_key
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.upstream import ok

NOW = datetime.now(UTC)


class Keys:
    """Plain keys by what is special about them, and the file that holds their entries."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.yaml"
        self.blue, blue = new_key("blue")
        self.green, green = new_key("green", expires_at=NOW + timedelta(hours=1))
        self.admin, admin = new_key("operators", admin=True)
        self.expired, expired = new_key("blue", expires_at=NOW - timedelta(seconds=1))
        self.revoked, revoked = new_key("blue")
        self.unknown, _ = new_key("blue")
        entries: list[KeyEntry] = [blue, green, admin, expired, revoked.model_copy(update={"revoked": True})]
        self.file.write_text(yaml.safe_dump({"keys": [e.model_dump(mode="json") for e in entries]}))

    @property
    def all(self) -> list[str]:
        return [self.blue, self.green, self.admin, self.expired, self.revoked, self.unknown]


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
async def locked(start: StartGateway, keys: Keys) -> AsyncGenerator[Gateway, None]:
    async with start(gateway={"keys_file": str(keys.file)}) as g:
        yield g


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def assert_unauthorized(reply: httpx.Response) -> None:
    assert reply.status_code == 401
    assert set(reply.json()) == {"error"}
    assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_request_belongs_to_the_tenant_of_its_key(locked: Gateway, keys: Keys) -> None:
    assert (await locked.chat(headers=bearer(keys.blue))).status_code == 200
    assert (await locked.chat(headers=bearer(keys.green))).status_code == 200
    await locked.row(1)
    assert [row.tenant for row in locked.rows] == ["blue", "green"]
    assert locked.stack.ledger.flush()
    assert sorted(row.tenant for row in locked.reader.requests()) == ["blue", "green"]


async def test_sdk_sends_the_key_as_we_read_it(locked: Gateway, keys: Keys) -> None:
    reply = await locked.sdk.with_options(api_key=keys.green).chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hello"}]
    )
    assert reply.choices[0].message.content
    assert (await locked.row()).tenant == "green"


@pytest.mark.parametrize("which", ["expired", "revoked", "unknown"])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/auto", "/metrics"]
)
async def test_key_that_is_not_good_any_more_opens_nothing(locked: Gateway, keys: Keys, which: str, path: str) -> None:
    """401 without a detail, the same words for every kind of wrong key."""
    method = "POST" if path.endswith("completions") else "GET"
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]} if method == "POST" else None
    reply = await locked.http.request(method, path, json=body, headers=bearer(getattr(keys, which)))
    assert_unauthorized(reply)
    assert reply.json() == (await locked.http.get("/v1/models", headers=bearer(keys.unknown))).json()
    assert locked.tier1.calls == []
    assert locked.rows == []


async def test_metrics_need_an_admin_key(locked: Gateway, keys: Keys) -> None:
    assert_unauthorized(await locked.http.get("/metrics"))
    refused = await locked.http.get("/metrics", headers=bearer(keys.blue))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    allowed = await locked.http.get("/metrics", headers=bearer(keys.admin))
    assert allowed.status_code == 200
    assert "tierwise_requests" in allowed.text


async def test_health_needs_no_key(locked: Gateway) -> None:
    assert (await locked.http.get("/healthz")).status_code == 200
    assert (await locked.http.get("/readyz")).status_code == 200


async def test_without_a_keys_file_everybody_is_the_local_tenant(g: Gateway) -> None:
    assert (await g.chat()).status_code == 200
    assert (await g.http.get("/metrics")).status_code == 200
    assert (await g.row()).tenant == "local"


async def test_tenants_never_share_a_prefix_cache(locked: Gateway, keys: Keys) -> None:
    """One salt a tenant, the same for each of its requests and never the tenant's name."""
    for key in (keys.blue, keys.green, keys.blue, keys.admin):
        await locked.chat("the same words", headers=bearer(key))
    blue, green, again, admin = (call.cache_salt for call in locked.tier1.calls)
    assert blue == again
    assert len({blue, green, admin}) == 3
    assert "blue" not in blue


async def test_tenants_never_share_an_idempotency_key(locked: Gateway, keys: Keys) -> None:
    same = {"idempotency-key": "order-66"}
    first = await locked.chat(headers={**bearer(keys.blue), **same})
    other = await locked.chat(headers={**bearer(keys.green), **same})
    again = await locked.chat(headers={**bearer(keys.blue), **same})
    assert "x-tierwise-replayed" not in other.headers
    assert again.headers["x-tierwise-replayed"] == "true"
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


async def test_no_key_is_written_down_anywhere(
    locked: Gateway, keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a log at any level, not in an answer, not in the ledger's files, not at the provider."""
    answers: list[httpx.Response] = []
    locked.upstream.always(ok("from the frontier"))
    with caplog.at_level(logging.DEBUG):
        for key in keys.all:
            answers += [await locked.chat(headers=bearer(key), model=model) for model in ("auto", "frontier")]
            answers += [await locked.chat(headers={"authorization": header}) for header in (key, f"Basic {key}")]
            answers.append(await locked.http.get("/metrics", headers=bearer(key)))
    assert {a.status_code for a in answers} == {200, 401, 403}
    assert locked.stack.ledger.flush()
    written = files_below(tmp_path)
    assert b"blue" in written
    given = "".join(a.text + str(a.headers) for a in answers)
    sent_on = "".join(str(exchange.headers) + str(exchange.body) for exchange in locked.upstream.exchanges)
    assert locked.upstream.exchanges
    for key in keys.all:
        assert key not in caplog.text
        assert key.encode() not in written
        assert key not in given
        assert key not in sent_on


def files_below(folder: Path) -> bytes:
    """Everything that lies in a folder: keys file, ledger, spool, secret."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
