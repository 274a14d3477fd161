"""Tier 1 drafts with the adapter of the request's category; a promoted one is loaded first and drops no request."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from routing.learning.release import version_of
from tests.journey.conftest import StartGateway
from tests.journey.scripted import Draft, ScriptedTier1
from tests.journey.test_promotion import publish, reloaded
from tests.serving.lora_files import write_adapter

CODE = "Write a Python function that reverses a list."
SERVED = re.compile(r"scripted-tier1:terse@[0-9a-f]{12}")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    for number, name in enumerate(("first", "second")):
        write_adapter(tmp_path / "registry" / "artefacts" / name, value=float(number))
    return tmp_path / "registry"


def sections(registry: Path, **policy: Any) -> dict[str, Any]:
    """What a gateway with adapters is started with."""
    return {
        "promotion": {"registry": str(registry), "poll_s": 0.05},
        "policy": {"default_threshold": 0.5, **policy},
    }


def adapters(registry: Path, name: str) -> dict[str, str]:
    return {"terse": str(registry / "artefacts" / name)}


def release(registry: Path, version: int, name: str) -> dict[str, Any]:
    policy = {"adapters": adapters(registry, name), "default_adapter": "terse"}
    return {"stable": {"version": version, "overrides": {"policy": policy}}}


async def test_category_is_drafted_with_its_adapter_and_others_without(start: StartGateway, registry: Path) -> None:
    policy = {"adapters": adapters(registry, "first"), "categories": {"code": {"adapter": "terse"}}}
    async with start(**sections(registry, **policy)) as g:
        code, chat = await g.chat(CODE), await g.chat("hello there")
        assert code.json()["tierwise"]["category"] == "code"
        assert SERVED.fullmatch(code.headers["x-tierwise-model"])
        assert SERVED.fullmatch(code.json()["tierwise"]["attempts"][-1]["model"])
        assert chat.headers["x-tierwise-model"] == "scripted-tier1"
        row = await g.row(0)
        assert row.served_model == row.attempts[-1].model == code.headers["x-tierwise-model"]
        assert row.cost_usd is not None  # an adapter runs at the price of its engine


async def test_samples_of_a_draft_come_from_the_same_adapter(start: StartGateway, registry: Path) -> None:
    policy = {"adapters": adapters(registry, "first"), "default_adapter": "terse"}
    async with start(**sections(registry, **policy), gate={"explore_rate": 1.0}) as g:
        await g.chat()
        assert [call.adapter for call in g.tier1.sampled] == [call.adapter for call in g.tier1.calls]
        assert g.tier1.sampled[0].adapter is not None


async def test_promoted_adapter_is_loaded_before_a_request_needs_it_and_drops_nothing(
    start: StartGateway, registry: Path
) -> None:
    """Reload under load. A request under way finishes on the adapter it began with."""
    held = asyncio.Event()
    tier1 = ScriptedTier1()
    async with start(**sections(registry), tier1=tier1, draft={"first_token_timeout_s": 10}) as g:
        publish(registry, release(registry, 2, "first"))
        await reloaded(g, "applied")
        tier1.script(Draft(gate=held))
        old = asyncio.create_task(g.chat())
        await tier1.until(running=1)
        done = asyncio.Event()
        seen: Counter[tuple[int | None, str]] = Counter()

        async def ask() -> None:
            while not done.is_set():
                reply = await g.chat()
                assert reply.status_code == 200, reply.text
                seen[version_of(reply.headers["x-tierwise-config"]), reply.headers["x-tierwise-model"]] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
            for n, version in enumerate(range(3, 8), start=2):
                publish(registry, release(registry, version, "second" if version % 2 else "first"))
                await reloaded(g, "applied", n)
                async with asyncio.timeout(5):
                    while not any(v == version for v, _ in seen):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
            done.set()
        held.set()
        first, second = (a.served_as for a in (tier1.loaded[0], tier1.loaded[1]))
        assert (await old).headers["x-tierwise-model"] == first
        assert first != second
        assert {model for v, model in seen if v is not None and v % 2} == {second}
        assert {model for v, model in seen if v is not None and v % 2 == 0} == {first}


async def test_adapter_that_an_engine_refuses_is_not_promoted(start: StartGateway, registry: Path) -> None:
    async with start(**sections(registry)) as g:
        g.tier1.refuses_adapters = "its shapes are of another model"
        publish(registry, release(registry, 2, "first"))
        await reloaded(g, "refused")
        assert (await g.chat()).headers["x-tierwise-model"] == "scripted-tier1"


async def test_release_that_names_a_foreign_folder_is_refused(start: StartGateway, registry: Path) -> None:
    """A release cannot lead out of the registry."""
    write_adapter(registry.parent / "elsewhere")
    bad = release(registry, 2, "first")
    bad["stable"]["overrides"]["policy"]["adapters"]["terse"] = str(registry / "artefacts" / ".." / ".." / "elsewhere")
    async with start(**sections(registry)) as g:
        publish(registry, bad)
        await reloaded(g, "refused")
        assert g.tier1.loaded == []
