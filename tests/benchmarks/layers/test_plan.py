"""Every row changes one thing, and the settings are ones that serving accepts."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.layers import plan
from benchmarks.layers.system_prompts import SYSTEM_PROMPTS, body
from benchmarks.load.child_stack import LayersError, read_profile
from benchmarks.tasks.suite import FAMILIES, Split, tasks
from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.learning.release import Variant
from routing.records import Api
from serving.config import load_config, with_overrides

CPU = Path("deploy/profiles/cpu.yaml")


def flat(setting: plan.Setting) -> dict[str, object]:
    return {f"{section}.{key}": value for section, values in setting.engines.items() for key, value in values.items()}


def test_rows_of_the_embedded_profile_in_order() -> None:
    found = plan.settings(read_profile(CPU))
    assert [[p.name for p in s.plays] for s in found] == [
        ["all frontier", "+ routing", "+ gate"],
        ["+ prefix caching"],
        ["+ KV-aware replicas"],
        ["+ continuous batching"],
    ]


def test_each_restart_changes_one_layer() -> None:
    settings = [flat(s) for s in plan.settings(read_profile(CPU))]
    changed = [
        {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        for before, after in pairwise(settings)
    ]
    assert changed == [
        {"router.prefix_caching", "tier1.prefix_caching"},
        {"tier1.replicas"},
        {"router.max_concurrent_requests", "tier1.max_concurrent_requests"},
    ]


@pytest.mark.parametrize("number", range(4))
def test_serving_accepts_every_setting_and_every_release(number: int) -> None:
    setting = plan.settings(read_profile(CPU))[number]
    env = {
        f"STACK_{section}__{key}".upper(): json.dumps(value)
        for section, values in setting.engines.items()
        for key, value in values.items()
    }
    config = load_config(CPU, {"STACK_STANDIN": "null", **env})
    for play in setting.plays:
        overrides = Variant(version=1, overrides={k: dict(v) for k, v in play.overrides.items()}).overrides
        changed = with_overrides(config, overrides)
        assert (changed.gate.artefact is None) == (play.name == "+ routing")
    assert config.tier1.routes_by_cache == (number >= 2)


def test_a_profile_gets_a_row_for_each_kernel_switch_that_it_has_on() -> None:
    profile = read_profile(CPU)
    profile["tier1"] |= {"enforce_eager": False, "weights_format": "fp8"}
    names = [s.plays[0].name for s in plan.settings(profile)][3:]
    assert names == ["+ continuous batching", "+ compiled graphs", "+ quantised weights"]
    assert flat(plan.settings(profile)[2])["tier1.weights_format"] == "model"
    assert "tier1.weights_format" not in flat(plan.settings(profile)[-1])


def test_rows_on_one_start_find_nothing_that_an_earlier_row_left() -> None:
    for setting in (*plan.quick(), *plan.settings(read_profile(CPU))):
        held = {flat(setting)[f"{engine}.prefix_caching"] for engine in plan.ENGINES}
        assert held == {False} or len(setting.plays) == 1


def test_engines_are_rented_where_a_row_needs_them() -> None:
    profile = read_profile(CPU)
    first, *_, last = plan.settings(profile)
    assert [plan.rent_usd_per_hour(profile, first, play) for play in first.plays] == [0.0, 0.2, 0.2]
    assert plan.rent_usd_per_hour(profile, last, last.plays[0]) == pytest.approx(0.3)


def test_a_profile_that_would_ask_a_provider_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text("standin: {model: m}\nfrontier: {providers: [{base_url: 'https://api.example.com/v1'}]}\n")
    with pytest.raises(LayersError, match="stand-in frontier on this machine"):
        read_profile(path)


def test_every_kind_has_a_system_prompt_that_leaves_the_category_alone() -> None:
    assert SYSTEM_PROMPTS.keys() == FAMILIES.keys()
    for task in tasks(Split.TEST)[::7]:
        asked = body(task, "auto")
        assert request_features(asked, Api.CHAT, 0, PolicyConfig()).category == task.category
        assert asked["messages"][1:] == [dict(m) for m in task.messages]
