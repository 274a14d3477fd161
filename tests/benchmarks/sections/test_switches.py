"""Every switch is one change that the server's own settings take."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.run.spread import over_rounds
from benchmarks.sections.switches import AS_CONFIGURED, CPU_SWITCHES, GPU_SWITCHES, settings_with, table
from serving.engine.standin import StandinConfig

ON_CPU = yaml.safe_load(Path("deploy/profiles/cpu.yaml").read_text())["tier1"]
ON_GPU = yaml.safe_load(Path("deploy/profiles/gpu-80g.yaml").read_text())["tier1"]
CASES = [*((ON_CPU, change) for change in CPU_SWITCHES.values()), *((ON_GPU, c) for c in GPU_SWITCHES.values())]


@pytest.mark.parametrize(("tier1", "change"), CASES)
def test_server_takes_the_change_and_nothing_else_differs(tier1: dict[str, Any], change: dict[str, Any]) -> None:
    plain = StandinConfig.model_validate(settings_with(tier1, {}))
    changed = StandinConfig.model_validate(settings_with(tier1, change))
    differing = {name for name in StandinConfig.model_fields if getattr(plain, name) != getattr(changed, name)}
    # Without chunked prefill a prompt is one step, so the step must grow with it.
    assert differing == (change.keys() | ({"step_tokens"} if "chunked_prefill" in change else set()))


def test_table_has_each_switch_over_the_configured_engine() -> None:
    names = ("output_tps", "ttft_p50_s", "tpot_p50_s", "hit_rate", "failed")
    rows = [
        {"row": AS_CONFIGURED, **over_rounds([dict.fromkeys(names, 2.0)])},
        {"row": "compiled", **over_rounds([{**dict.fromkeys(names, 2.0), "output_tps": 5.0}])},
    ]
    shown = table({"rows": rows, "not_started": {"fp8 weights": "status 1"}, "load": "short"})
    assert "2.50" in shown
    assert "fp8 weights did not start: status 1" in shown
