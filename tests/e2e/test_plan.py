"""What `plan` says of the embedded profile is what vLLM really allocates."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.commands.plan import EngineBudget, plan
from serving.config import load_config
from serving.engine.vllm_flags import GIB

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PROFILE = ROOT / "deploy" / "profiles" / "cpu.yaml"
# vLLM's engine in one process, so that it can be looked into: the tensors it has loaded, seen just before a CPU engine
# packs them for oneDNN (same size, no longer tensors), and the KV blocks it has made.
LOOK_INSIDE = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader import base_loader
from vllm.v1.engine.llm_engine import LLMEngine
from serving.engine.vllm_engine import parse_flags

loaded = {}
pack = base_loader.process_weights_after_loading

def count(model, *rest):
    loaded.update({p.untyped_storage().data_ptr(): p.nbytes for p in model.parameters()})
    return pack(model, *rest)

base_loader.process_weights_after_loading = count
engine = LLMEngine.from_engine_args(EngineArgs.from_cli_args(parse_flags(json.loads(sys.argv[1]))))
cache = engine.vllm_config.cache_config
print("SEEN", json.dumps({"weights_bytes": sum(loaded.values()), "kv_blocks": cache.num_gpu_blocks,
                          "block_tokens": cache.block_size}))
"""


def seen(flags: dict[str, Any], environment: dict[str, str]) -> dict[str, int]:
    """Start the engine as a replica would, but in one process; what it allocated."""
    child = subprocess.run(
        [sys.executable, "-c", LOOK_INSIDE, json.dumps(flags)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    lines = [line for line in child.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, child.stderr[-3000:]
    found: dict[str, int] = json.loads(lines[0].removeprefix("SEEN "))
    return found


def test_plan_agrees_with_what_vllm_allocates(models: Path) -> None:
    config = load_config(PROFILE, {})
    (budget,) = [engine for engine in plan(config).engines if engine.name == "tier1"]
    found = seen(config.tier1.flags(), config.tier1.environment())
    assert found["block_tokens"] == budget.block_tokens
    assert found["kv_blocks"] * found["block_tokens"] == pytest.approx(budget.kv_tokens, rel=0.1)
    assert found["weights_bytes"] == pytest.approx(budget.weights_gib * GIB, rel=0.1)
    print(f"vLLM {found}; plan {described(budget)}")


def described(budget: EngineBudget) -> str:
    """The same quantities of the plan."""
    return f"{budget.weights_gib * GIB:.0f} bytes, {budget.kv_tokens // budget.block_tokens} blocks"
