"""A retry with the same idempotency key is one charge: the same answer, or 409 while the first still runs."""

import asyncio

import pytest

from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import error, ok

KEY = {"idempotency-key": "order-66"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_finished_request_is_replayed_without_a_second_charge(g: Gateway, stream: bool) -> None:
    g.tier1.script(Draft(text="the first answer"), Draft(text="another answer"))
    first = await g.chat(headers=KEY, stream=stream)
    again = await g.chat(headers=KEY, stream=stream)
    assert "first" in first.text
    assert "first" in again.text
    assert again.headers["x-tierwise-replayed"] == "true"
    assert len(g.tier1.calls) == 1
    await g.row()
    assert len(g.rows) == 1


async def test_retry_while_the_first_runs_is_409(start: StartGateway) -> None:
    async with start(draft={"first_token_timeout_s": 30}) as g:
        ready = asyncio.Event()
        g.tier1.script(Draft(gate=ready))
        first = asyncio.create_task(g.chat(headers=KEY))
        await g.tier1.until(running=1)
        assert (await g.chat(headers=KEY)).status_code == 409
        ready.set()
        assert (await first).status_code == 200


async def test_failed_request_may_be_tried_again_with_its_key(g: Gateway) -> None:
    g.upstream.always(error(503))
    assert (await g.chat(headers=KEY, model="frontier")).status_code == 503
    g.upstream.always(ok("better now"))
    assert "better now" in (await g.chat(headers=KEY, model="frontier")).text


async def test_key_used_for_another_request_is_refused(g: Gateway) -> None:
    await g.chat("one", headers=KEY)
    reply = await g.chat("two", headers=KEY)
    assert reply.status_code == 400
