"""The audit's assumptions beyond the log, with the source of each. A profile may state better values."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from routing.cost.attempt import CostConfig
from routing.records import Record, Tier
from serving.audit.forecast.amortisation import EngineRates
from serving.errors import AuditError

# A 7B in bf16 (Qwen2.5-7B: 28 layers, 4 KV heads of 128, keys and values, 2 bytes) holds a token in 57,344 bytes. An
# 80 GB card less 10 % reserve, 15 GB of weights and 2 GB of activations leaves 55 GB: 0.96 million tokens.
KV_CAPACITY_TOKENS = 1_000_000
# The prefill rate that benchmarks/replicas/replay.py simulates.
# Decoding: 15 GB of weights a step at 3.35 TB/s are at most 220 steps a second. Batches of 16 at 70 % of that give
# 2,500 tokens/s.
PREFILL_TOKENS_PER_S = 20_000.0
DECODE_TOKENS_PER_S = 2_500.0
# Rented single 80 GB cards were offered at 1.50 to 3 dollars an hour. --gpu-usd-per-hour takes one's own.
GPU_USD_PER_HOUR = 2.0
ROUTER_USD_PER_REQUEST = (
    0.0001  # a 1-3B model on a GPU that is a tenth busy: tests/serving/audit/forecast/test_amortisation.py
)
ASSUMED = "assumed"


class Assumptions(Record):
    """Everything that is not in the log. Sources name the origin. 'assumed' ones are listed under what is not known."""

    target: float = Field(0.98, gt=0, le=1, description="share of the frontier's quality to keep")
    relative_quality: float | None = Field(
        None, gt=0, description="tier 1 over frontier on this traffic. None: unknown"
    )
    replica_usd_per_hour: float = Field(GPU_USD_PER_HOUR, ge=0, description="all GPUs of one tier-1 replica")
    replica_price_source: str = ASSUMED
    rates: EngineRates = EngineRates(prefill_tokens_per_s=PREFILL_TOKENS_PER_S, decode_tokens_per_s=DECODE_TOKENS_PER_S)
    router_usd_per_request: float = Field(ROUTER_USD_PER_REQUEST, ge=0)
    kv_capacity_tokens: int = Field(KV_CAPACITY_TOKENS, ge=1, description="prefix cache of one replica")
    block_size_tokens: int = Field(64, ge=1, description="of a KV block. Smaller ones cost time and find a little more")
    slo_wait_s: float = Field(1.0, ge=0, description="longest wait for a free replica")
    slo_late_ratio: float = Field(0.01, gt=0, lt=1, description="share of requests that may wait longer")
    min_replicas: int = Field(1, ge=1)
    drafted_ratio: float = Field(
        1.0, ge=0, le=1, description="share of the escalated that tier 1 drafts first. 1: the router turns none away"
    )
    shadow_ratio: float = Field(0.01, ge=0, le=1, description="tier-1 answers that the frontier answers too")


def read_profile(path: Path) -> tuple[dict[str, Any], CostConfig]:
    """(assumptions that a profile states, its prices). Only `cost` and `tier1` are read. STACK_* variables are not.

    Raises AuditError naming what is wrong.
    """
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}: --profile names a YAML profile of deploy/profiles") from error
    except yaml.YAMLError as error:
        raise AuditError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, Mapping):
        raise AuditError(f"{path}: not a profile: expected sections such as `cost` and `tier1`")
    try:
        cost = CostConfig.model_validate(tree.get("cost", {}))
    except ValidationError as error:
        raise AuditError(f"{path}: cost: {error}") from error
    stated: dict[str, Any] = {}
    if (usd := cost.engine_usd_per_hour.get(Tier.TIER1)) is not None:
        stated["replica_usd_per_hour"] = usd
        stated["replica_price_source"] = f"{path.name}: {cost.engine_price_source}"
    tier1 = tree.get("tier1")
    if isinstance(tier1, Mapping):
        for key, name in (("block_size_tokens", "block_size_tokens"), ("replicas", "min_replicas")):
            if isinstance(tier1.get(key), int):
                stated[name] = tier1[key]
    return stated, cost
