"""One turn of the flywheel on a gateway with scripted tiers: what is better is promoted, what is not is refused."""

import asyncio
import contextlib
import io
import json
import random
import subprocess
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tqdm import tqdm

from benchmarks.flywheel.command import report
from benchmarks.flywheel.figures import document
from benchmarks.flywheel.operator import Operator, Run
from benchmarks.flywheel.plot import plot
from benchmarks.flywheel.turn import Plan, Steps, Turn
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Task
from models.__main__ import main as models
from models.tier1.data import target_of
from routing.learning.release import RELEASE_FILE, Release
from routing.records import DecisionReason
from serving.__main__ import main as serving
from serving.request.call import Call
from serving.request.frame import Frame
from tests.journey.gateway import gateway, journey_config
from tests.journey.scripted import Draft, ScriptedTier1
from tests.journey.upstream import Script, ScriptedUpstream, ok
from tests.serving.lora_files import write_adapter

pytestmark = pytest.mark.slow

KINDS = ("arithmetic", "units", "tickets", "strings", "dates", "lookup")
N_TEST, N_LABELS = 4, 20
# The commands of a turn train in the gateway's own loop and stop it for as long: that is no fault of a tier.
PATIENT = {
    "frontier": {"ttft_timeout_s": 30.0, "idle_timeout_s": 30.0},
    "draft": {"first_token_timeout_s": 30.0, "idle_timeout_s": 30.0, "judge_timeout_s": 30.0},
    "cascade": {"router_timeout_s": 30.0},
}
QUESTIONS = {split: tasks(split) for split in (Split.TEST, Split.TRAIN, Split.CALIBRATION)}
ANSWERS = {task.prompt: target_of(task.verifier.model_dump()) or "" for made in QUESTIONS.values() for task in made}


def window(split: Split, n: int) -> list[Task]:
    return [task for kind in KINDS for task in [t for t in QUESTIONS[split] if t.kind == kind][:n]]


class Learner(ScriptedTier1):
    """Right on a share of the questions, always the same ones; sure of itself where it is right."""

    def __init__(self, base: float, adapted: float, spoilt: str | None = None) -> None:
        """spoilt: a category that the adapter is never right in."""
        super().__init__()
        self.right_ratio = {False: base, True: adapted}
        self.spoilt = spoilt
        self.samples = None

    async def draft(self, call: Call) -> AsyncGenerator[Frame, None]:
        prompt = call.body["messages"][-1]["content"]
        right = random.Random(prompt).random() < self.right_ratio[call.adapter is not None]
        right &= call.adapter is None or call.features.category != self.spoilt
        text = ANSWERS[prompt] if right else "certainly not this"
        if not call.request_id.endswith("-samples"):
            self.script(Draft(text=text, logprob=-0.05 if right else -0.9))
        async for frame in super().draft(call):
            yield frame


class Knowing(ScriptedUpstream):
    """A frontier that is right on nine of ten."""

    def take_script(self, body: Mapping[str, Any]) -> Script:
        prompt = body["messages"][-1]["content"]
        return ok(ANSWERS[prompt] if random.Random(prompt + "!").random() < 0.9 else "no idea")


def in_this_process(loop: asyncio.AbstractEventLoop) -> Run:
    """Commands in the thread of the loop: starting Python and its libraries seven times takes longer than a turn."""

    async def call(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return here(words)

    return lambda words: asyncio.run_coroutine_threadsafe(call(words), loop).result()


def here(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What a command does and says."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = {"models": models, "serving": serving}[words[0]](list(words[1:]))
    return subprocess.CompletedProcess(list(words), status, out.getvalue(), err.getvalue())


async def turned(tmp_path: Path, tier1: Learner, margin: float = 0.05) -> tuple[Turn, Plan]:
    """A turn against a gateway, without the engines that `serving` would start."""
    adapter = write_adapter(tmp_path / "adapters" / "trained")
    (adapter / "training.json").write_text(json.dumps({"data_sha256": "0" * 64, "eval_loss": 0.3}))
    files = tmp_path / "files"
    files.mkdir()
    plan = Plan(Path("unused"), adapter, files, N_TEST, N_LABELS, 0.8, margin, 0)
    async with Knowing() as upstream:
        sections = {
            "promotion": {"registry": str(files / "registry"), "poll_s": 0.05},
            "policy": {"default_threshold": 0.5},
            **PATIENT,
        }
        (files / "profile.yaml").write_text(
            yaml.safe_dump(json.loads(journey_config(tmp_path, upstream, **sections).model_dump_json()))
        )
        async with gateway(tmp_path, upstream, tier1=tier1, **sections) as g:
            operator = Operator(
                g.url,
                upstream.url,
                files / "profile.yaml",
                files / "registry",
                files,
                in_this_process(asyncio.get_running_loop()),
            )
            splits = (window(Split.TEST, N_TEST), window(Split.TRAIN, N_LABELS), window(Split.CALIBRATION, N_LABELS))
            with tqdm(disable=True) as bar:
                made = await asyncio.to_thread(Steps(operator, plan, *splits, bar).run)
            assert {row.status for row in g.rows} == {200}
    return made, plan


async def test_better_adapter_is_promoted_with_heads_of_its_own_and_serves(tmp_path: Path) -> None:
    made, plan = await turned(tmp_path, Learner(base=0.2, adapted=0.95))
    found = document(made, plan.quality_target)
    assert made.after is not None, made.refused
    release = Release.model_validate_json((plan.files / "registry" / RELEASE_FILE).read_bytes())
    policy, gate = release.stable.overrides["policy"], release.stable.overrides["gate"]
    assert policy["default_adapter"] == "tier1-lora"
    assert policy["artefact"] == gate["artefact"] == policy["adapters"]["tier1-lora"]
    assert "explore_rate" not in gate  # the trial's
    assert found["refused"] == []
    before, after = found["served"]
    assert after["accuracy"]["value"] > before["accuracy"]["value"]
    assert found["change"]["accuracy"]["low"] > 0
    everything = found["categories"][-1]
    assert everything["name"] == "all"
    assert everything["gain"]["value"] == pytest.approx(everything["adapter"]["value"] - everything["base"]["value"])
    assert "promoted for" in report({**found, "took_s": 1.0})
    plot(found, tmp_path / "turn.png")
    assert (tmp_path / "turn.png").read_bytes().startswith(b"\x89PNG")


async def test_adapter_that_spoils_a_category_is_released_for_the_others(tmp_path: Path) -> None:
    every = sorted({task.category for task in window(Split.CALIBRATION, 1)})
    spoilt = max(every, key=lambda c: -sum(t.category == c for t in window(Split.CALIBRATION, N_LABELS)))
    made, plan = await turned(tmp_path, Learner(base=0.3, adapted=0.97, spoilt=spoilt))
    assert f"category_worse: {spoilt}: quality" in made.refused[0]
    assert made.categories == tuple(category for category in every if category != spoilt)
    release = Release.model_validate_json((plan.files / "registry" / RELEASE_FILE).read_bytes())
    policy = release.stable.overrides["policy"]
    assert set(policy["categories"]) == set(made.categories)
    assert "default_adapter" not in policy
    assert made.after is not None
    models_of = {
        (row.features.category, row.decision.reason) for row in made.rows.values() if row.features and row.decision
    }
    assert (spoilt, DecisionReason.NO_LABELS) in models_of


async def test_worse_adapter_is_refused_by_name_and_what_ran_still_runs(tmp_path: Path) -> None:
    """The gate of promotion holds on real requests, and the trial leaves nothing behind."""
    made, plan = await turned(tmp_path, Learner(base=0.9, adapted=0.3))
    assert made.after is None
    assert "not_better" in made.refused[0]
    release = Release.model_validate_json((plan.files / "registry" / RELEASE_FILE).read_bytes())
    assert release.stable.overrides == {}
    found = document(made, plan.quality_target)
    assert found["change"] is None
    assert "what ran before still runs" in report({**found, "took_s": 1.0})
