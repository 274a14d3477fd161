"""LoRA adapters on two real engines: loaded while they serve, chosen per request, apart in the KV cache."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from benchmarks.load.tiny_model import write_model
from routing.records import ReplicaMode
from serving.engine.adapters import read_adapter
from serving.engine.client import EngineClient
from serving.engine.config import EngineConfig
from serving.engine.deployment import engine_deployment
from serving.engine.vllm_flags import LoraSettings
from serving.errors import Tier1Failed
from serving.replicas.tracker import ReplicaTracker
from serving.request.call import Adapter, Call
from serving.request.frame import Frame
from tests.e2e.conftest import END_TO_END, SMALL, collect
from tests.e2e.test_replicas import SETTINGS, body, followed, words

pytestmark = END_TO_END

NewCall = Callable[..., Call]
RANK = 8


@pytest.fixture(scope="module")
def weights(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tiny"), models / SMALL)


@pytest.fixture(scope="module")
def adapters(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Adapter]:
    """Three LoRAs with random weights, as PEFT writes them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    root, found = tmp_path_factory.mktemp("artefacts"), []
    for seed in range(3):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.bfloat16)
        lora = LoraConfig(
            r=RANK, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
        )
        get_peft_model(base, lora).save_pretrained(str(root / f"random-{seed}"))
        found.append(read_adapter(f"random-{seed}", root / f"random-{seed}", "tiny", RANK, [root]))
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engines(ray_local: None, weights: Path) -> AsyncGenerator[tuple[EngineClient, ReplicaTracker], None]:
    """Two replicas that take adapters, once both are followed."""
    from ray import serve

    lora = LoraSettings(max_rank=RANK, max_active=2, max_loaded=2)
    config = EngineConfig(**SETTINGS, model_path=str(weights), replicas=2, max_queued_requests=64, lora=lora)
    tier = EngineClient(serve.run(engine_deployment("adapted", config), name="adapted", route_prefix=None), config)
    assert tier.tracker is not None
    await tier.probe()
    await followed(tier.tracker, 2)
    yield tier, tier.tracker
    tier.tracker.close()
    serve.delete("adapted")


def asked(new_call: NewCall, adapter: Adapter | None, seed: int = 0, **changed: Any) -> Call:
    question = {**body(words(seed, 150)), "max_tokens": 12, **changed}
    return replace(new_call(question), adapter=adapter)


def text(frames: list[Frame]) -> str:
    return "".join(frame.text for frame in frames)


async def test_each_adapter_answers_in_its_own_way_under_its_own_name(
    engines: tuple[EngineClient, ReplicaTracker], adapters: list[Adapter], new_call: NewCall
) -> None:
    tier, _ = engines
    answers = {}
    for adapter in (None, *adapters):  # one more than fits into memory at once
        frames = await collect(tier.draft(asked(new_call, adapter)))
        assert frames[-1].model == ("tiny" if adapter is None else adapter.served_as)
        answers[frames[-1].model] = text(frames)
    assert len(set(answers.values())) == 4
    again = await collect(tier.draft(asked(new_call, adapters[0])))
    assert text(again) == answers[adapters[0].served_as]


async def test_adapters_share_no_kv_block_and_the_forecast_knows(
    engines: tuple[EngineClient, ReplicaTracker], adapters: list[Adapter], new_call: NewCall
) -> None:
    """What one adapter computed is no other's prefix. The same adapter finds its own again."""
    tier, _ = engines
    for adapter in (None, adapters[0], adapters[1]):
        for hit in (False, True):
            frames = await collect(tier.draft(asked(new_call, adapter, seed=7, max_tokens=2)))
            choice, usage = frames[0].replica_choice, frames[-1].usage
            assert choice is not None
            assert usage is not None
            assert choice.mode is ReplicaMode.EXACT
            assert choice.expected_cached_tokens == usage.cached_tokens
            assert bool(usage.cached_tokens) is hit
            await asyncio.sleep(0.3)  # the engine's events are under way


async def test_adapter_is_loaded_on_every_replica_within_two_seconds_and_drops_nothing(
    engines: tuple[EngineClient, ReplicaTracker], adapters: list[Adapter], new_call: NewCall
) -> None:
    tier, _ = engines
    old, new = adapters[0], adapters[2]
    assert await tier.load_adapter(old) is None
    under_way = [
        asyncio.create_task(collect(tier.draft(asked(new_call, old, seed=n, max_tokens=64, ignore_eos=True))))
        for n in range(20, 26)
    ]
    await asyncio.sleep(0.2)  # the engine is in the middle of them
    began = time.perf_counter()
    assert await tier.load_adapter(new) is None
    assert time.perf_counter() - began < 2
    after = await asyncio.gather(*[collect(tier.draft(asked(new_call, new, seed=n))) for n in range(30, 36)])
    assert {frames[-1].model for frames in after} == {new.served_as}
    before = await asyncio.gather(*under_way)
    assert {frames[-1].model for frames in before} == {old.served_as}
    usages = [frames[-1].usage for frames in before]
    assert all(usage is not None and usage.output_tokens == 64 for usage in usages)


async def test_adapter_of_another_model_is_refused_and_the_engine_lives(
    engines: tuple[EngineClient, ReplicaTracker], adapters: list[Adapter], new_call: NewCall, tmp_path: Path
) -> None:
    """A wrong artefact is refused, what runs stays."""
    from tests.serving.lora_files import write_adapter

    tier, _ = engines
    wrong = read_adapter("wrong", write_adapter(tmp_path / "wrong"), "tiny", RANK, [tmp_path])
    why = await tier.load_adapter(wrong)
    assert why is not None
    with pytest.raises(Tier1Failed, match="is not served"):
        await collect(tier.draft(asked(new_call, wrong)))
    assert text(await collect(tier.draft(asked(new_call, None))))
