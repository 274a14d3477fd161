"""A promoted release reaches the running gateway: swapped whole, nothing dropped, every answer says its version."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from routing.learning.release import RELEASE_FILE, version_of
from serving.__main__ import main
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft, ScriptedRouter, ScriptedTier1

WITHIN_S = 2.0


def publish(registry: Path, release: Any) -> None:
    """As the flywheel does: one rename."""
    registry.mkdir(exist_ok=True)
    half = registry / ".part"
    half.write_text(release if isinstance(release, str) else json.dumps(release))
    os.replace(half, registry / RELEASE_FILE)


def release(version: int, threshold: float, **more: Any) -> dict[str, Any]:
    return {"stable": {"version": version, "overrides": {"policy": {"default_threshold": threshold}}}, **more}


def reloads(g: Gateway, result: str) -> float:
    return g.stack.telemetry.registry.get_sample_value("tierwise_reloads_total", {"result": result}) or 0.0


async def reloaded(g: Gateway, result: str, n: int = 1) -> None:
    """Wait until so many releases came out so; fails after what is promised."""
    async with asyncio.timeout(WITHIN_S):
        while reloads(g, result) < n:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


@pytest.fixture
async def watching(start: StartGateway, registry: Path) -> AsyncGenerator[Gateway, None]:
    """A gateway whose router says .6, and tier 1 answers from .5."""
    async with start(
        promotion={"registry": str(registry), "poll_s": 0.05},
        policy={"default_threshold": 0.5},
        router=ScriptedRouter(score=0.6),
    ) as g:
        yield g


async def test_promoted_threshold_decides_within_two_seconds(watching: Gateway, registry: Path) -> None:
    before = await watching.chat()
    assert before.headers["x-tierwise-tier"] == "tier1"
    assert version_of(before.headers["x-tierwise-config"]) is None
    publish(registry, release(2, 0.7))
    await reloaded(watching, "applied")
    after = await watching.chat()
    assert after.headers["x-tierwise-tier"] == "frontier"
    assert after.json()["tierwise"]["threshold"] == 0.7
    assert after.headers["x-tierwise-config"] == f"{before.headers['x-tierwise-config']}.r2"
    assert (await watching.row(1)).config_hash == after.headers["x-tierwise-config"]
    shown = watching.stack.telemetry.registry.get_sample_value
    assert shown("tierwise_config_info", {"hash": after.headers["x-tierwise-config"]}) == 1
    assert shown("tierwise_config_info", {"hash": before.headers["x-tierwise-config"]}) is None


@pytest.mark.parametrize(
    "bad",
    [
        release(3, 1.5),
        {"stable": {"version": 3, "overrides": {"policy": {"treshold": 0.1}}}},
        {"stable": {"version": 3, "overrides": {"ledger": {"url": "sqlite:///x"}}}},
        {**release(3, 0.4), "canary": {"version": 4, "overrides": {"gate": {"max_repeat": -1}}}, "canary_ratio": 0.5},
        "{half a releas",
    ],
    ids=["threshold over 1", "unknown key", "another section", "bad canary beside a good stable", "not JSON"],
)
async def test_bad_release_is_refused_as_a_whole_and_what_runs_stays(
    watching: Gateway, registry: Path, bad: Any
) -> None:
    publish(registry, release(2, 0.7))
    await reloaded(watching, "applied")
    publish(registry, bad)
    await reloaded(watching, "refused")
    reply = await watching.chat()
    assert reply.json()["tierwise"]["threshold"] == 0.7
    assert version_of(reply.headers["x-tierwise-config"]) == 2
    publish(registry, release(5, 0.1))
    await reloaded(watching, "applied", 2)
    assert (await watching.chat()).json()["tierwise"]["threshold"] == 0.1


async def test_request_under_way_finishes_on_what_it_began_with(start: StartGateway, registry: Path) -> None:
    held = asyncio.Event()
    tier1 = ScriptedTier1(Draft(gate=held))
    patient = {"first_token_timeout_s": 10, "idle_timeout_s": 10}
    async with start(
        promotion={"registry": str(registry), "poll_s": 0.05},
        tier1=tier1,
        draft=patient,
        policy={"default_threshold": 0.5},
    ) as g:
        old = asyncio.create_task(g.chat(stream=True))
        await tier1.until(running=1)
        publish(registry, release(2, 1.0))
        await reloaded(g, "applied")
        assert (await g.chat()).headers["x-tierwise-tier"] == "frontier"
        held.set()
        reply = await old
        last = json.loads([line for line in reply.text.splitlines() if line.startswith("data: {")][-1][6:])
        assert last["tierwise"]["tier"] == "tier1"
        assert last["tierwise"]["threshold"] == 0.5
        assert version_of(last["tierwise"]["config_hash"]) is None


async def test_reload_under_load_drops_nothing_and_no_answer_mixes_two_versions(
    watching: Gateway, registry: Path
) -> None:
    """Reload under load. Every response carries the config version it used."""
    threshold_of = {version: round(0.3 + 0.05 * version, 2) for version in range(2, 10)}
    done = asyncio.Event()
    seen: Counter[int | None] = Counter()

    async def ask() -> None:
        while not done.is_set():
            reply = await watching.chat()
            assert reply.status_code == 200, reply.text
            version = version_of(reply.headers["x-tierwise-config"])
            seen[version] += 1
            assert reply.json()["tierwise"]["threshold"] == (0.5 if version is None else threshold_of[version])
            assert reply.json()["tierwise"]["config_hash"] == reply.headers["x-tierwise-config"]

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask())
        for n, (version, threshold) in enumerate(threshold_of.items(), start=1):
            publish(registry, release(version, threshold))
            await reloaded(watching, "applied", n)
            before = seen[version]
            async with asyncio.timeout(5):
                while seen[version] == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        done.set()
    assert set(threshold_of) <= set(seen)
    assert seen.total() == len(watching.rows)
    assert {row.status for row in watching.rows} == {200}


async def test_canary_gets_its_share_and_is_booked_apart(watching: Gateway, registry: Path) -> None:
    canary = {"version": 3, "overrides": {"policy": {"default_threshold": 0.9}}}
    publish(registry, release(2, 0.5, canary=canary, canary_ratio=0.5))
    await reloaded(watching, "applied")
    for _ in range(40):
        await watching.chat()
    tiers = {(version_of(row.config_hash), row.served_tier) for row in watching.rows}
    assert tiers == {(2, "tier1"), (3, "frontier")}


async def test_start_finds_the_release_that_was_promoted_before(start: StartGateway, registry: Path) -> None:
    publish(registry, release(7, 0.99))
    async with start(promotion={"registry": str(registry)}) as g:
        reply = await g.chat()
        assert version_of(reply.headers["x-tierwise-config"]) == 7


async def test_start_on_a_bad_release_serves_the_profile_and_tells(start: StartGateway, registry: Path) -> None:
    publish(registry, release(7, 99))
    async with start(promotion={"registry": str(registry)}) as g:
        assert version_of((await g.chat()).headers["x-tierwise-config"]) is None
        assert reloads(g, "refused") == 1


def test_validate_refuses_a_profile_whose_release_does_not_fit(
    registry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACK_PROMOTION__REGISTRY", str(registry))
    publish(registry, release(2, 0.4))
    assert main(["validate", "deploy/profiles/cpu.yaml"]) == 0
    assert "stable version 2" in capsys.readouterr().out
    publish(registry, release(2, 4))
    assert main(["validate", "deploy/profiles/cpu.yaml"]) == 2
    assert "policy.default_threshold" in capsys.readouterr().err


async def test_swap_is_not_in_the_way_of_a_request(watching: Gateway) -> None:
    """Picking a configuration reads no file: it takes microseconds, also while the registry is away."""
    began = time.perf_counter()
    for _ in range(1000):
        watching.stack.releases.pick("0" * 32)
    assert time.perf_counter() - began < 1.0
