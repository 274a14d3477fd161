"""The loop closed: samples in the ledger, one round of the flywheel, and the gateway decides by what was learned."""

import asyncio
import sys
from pathlib import Path

import pytest

from models.__main__ import main
from routing.learning.release import version_of
from serving.ledger.samples import SampleStore
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.test_promotion import reloaded
from tests.models.flywheel.test_round import samples
from tests.models.graded import graded

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


async def ask(g: Gateway, category: str, prompt: str) -> tuple[str, str | None]:
    """(the tier asked first by the head's word, the version)."""
    reply = await g.chat(prompt, metadata={"category": category})
    assert reply.status_code == 200, reply.text
    return reply.headers["x-tierwise-tier"], reply.headers["x-tierwise-config"]


async def test_labels_become_a_head_that_decides_in_the_running_gateway(start: StartGateway, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    categories = {name: {} for name in ("chat", "sums", "law")}
    async with start(promotion={"registry": str(registry), "poll_s": 0.05}, policy={"categories": categories}) as g:
        assert (await ask(g, "law", "anything"))[0] == "tier1"  # the scripted router likes everything
        lessons = SampleStore(g.stack.ledger._config)
        await asyncio.to_thread(lessons.put_samples, samples())
        lessons.close()
        command = ["flywheel", "once", "--ledger", g.stack.ledger._config.url, "--registry", str(registry)]
        command += ["--quality-target", "0.9", "--margin", "0.1", "--canary-ratio", "1"]
        round_ = await asyncio.create_subprocess_exec(sys.executable, "-m", "models", *command, cwd=ROOT)
        assert await round_.wait() == 0
        await reloaded(g, "applied")
        answered = [(pair, await ask(g, pair.category, pair.prompt)) for pair in graded(60, seed=77)]
        assert {version_of(config or "") for _, (_, config) in answered} == {2}
        kept = [pair.tier1_ok for pair, (tier, _) in answered if tier == "tier1"]
        assert 10 < len(kept) < 50  # the easy ones stay, the hard ones go
        assert sum(kept) / len(kept) > 0.85
        assert main(["rollback", "--registry", str(registry)]) == 0
        await reloaded(g, "applied", 2)
        tier, config = await ask(g, "law", "anything else")
        assert (tier, version_of(config or "")) == ("tier1", 1)
