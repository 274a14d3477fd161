"""Which rows are played on which setting of the engines. A row changes one thing of the row before it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.layers.claims import FRONTIER, GATE, PREFIX, REPLICAS, ROUTING
from routing.records import RequestedModel

ENGINES = ("router", "tier1")
REPLICAS_OF_TIER1 = 2
# Setting of an engine: (its value when the layer is off, what the layer is called). What a profile has off itself gets
# no row.
KERNEL_SWITCHES: dict[str, tuple[Any, str]] = {
    "max_concurrent_requests": (1, "continuous batching"),
    "enforce_eager": (True, "compiled graphs"),
    "weights_format": ("model", "quantised weights"),
    "kv_cache_format": ("auto", "quantised KV cache"),
    "speculation": (None, "speculation"),
}
DEFAULTS = {"max_concurrent_requests": 16, "enforce_eager": False}
NO_GATE: dict[str, dict[str, Any]] = {
    "policy": {"default_hold": "off"},
    "gate": {"artefact": None, "judge_threshold": None},
}


@dataclass(frozen=True, slots=True)
class Play:
    """The questions once. overrides: of the sections policy and gate, laid over the profile while it serves."""

    name: str
    model: RequestedModel = RequestedModel.AUTO
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


FIRST_PLAYS = (Play(FRONTIER, RequestedModel.FRONTIER), Play(ROUTING, overrides=NO_GATE), Play(GATE))


@dataclass(frozen=True, slots=True)
class Setting:
    """One start of the stack. engines: values by section, laid over the profile."""

    engines: Mapping[str, Mapping[str, Any]]
    plays: tuple[Play, ...]


def settings(profile: Mapping[str, Any]) -> list[Setting]:
    """All rows of the table, in order. Every further setting is a restart of router, tier 1 and gateway."""
    switches = [switch for switch in KERNEL_SWITCHES if any(is_on(profile, engine, switch) for engine in ENGINES)]
    off = {engine: {s: KERNEL_SWITCHES[s][0] for s in switches if is_on(profile, engine, s)} for engine in ENGINES}
    alone = {"tier1": {"replicas": 1, "autoscaling": None}}
    several = {"tier1": {"replicas": max(REPLICAS_OF_TIER1, profile["tier1"].get("replicas", 1)), "autoscaling": None}}
    cold, warm = ({engine: {"prefix_caching": held} for engine in ENGINES} for held in (False, True))
    found = [
        Setting(laid(off, alone, cold), FIRST_PLAYS),
        Setting(laid(off, alone, warm), (Play(PREFIX),)),
        Setting(laid(off, several, warm), (Play(REPLICAS),)),
    ]
    for number, switch in enumerate(switches, start=1):
        rest = {engine: {s: v for s, v in off[engine].items() if s in switches[number:]} for engine in ENGINES}
        found.append(Setting(laid(rest, several, warm), (Play(f"+ {KERNEL_SWITCHES[switch][1]}"),)))
    return found


def is_on(profile: Mapping[str, Any], engine: str, switch: str) -> bool:
    """Whether the profile has it on for an engine that it has."""
    section = profile.get(engine)
    off, _ = KERNEL_SWITCHES[switch]
    return section is not None and section.get(switch, DEFAULTS.get(switch, off)) != off


def quick() -> list[Setting]:
    """One start: the rows that need no other one. Without prefix caching, or rows would find each other's prompts."""
    return [Setting({engine: {"prefix_caching": False} for engine in ENGINES}, FIRST_PLAYS)]


def laid(*layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sections merged, later ones win."""
    merged: dict[str, dict[str, Any]] = {}
    for layer in layers:
        for section, values in layer.items():
            merged[section] = merged.get(section, {}) | dict(values)
    return merged


def replicas(profile: Mapping[str, Any], setting: Setting) -> int:
    """Replicas of tier 1 under a setting."""
    return int(setting.engines.get("tier1", {}).get("replicas", profile["tier1"].get("replicas", 1)))


def rent_usd_per_hour(profile: Mapping[str, Any], setting: Setting, play: Play) -> float:
    """What the engines of our own cost that a row needs. The frontier alone needs none."""
    if play.model is RequestedModel.FRONTIER:
        return 0.0
    prices = profile.get("cost", {}).get("engine_usd_per_hour", {})
    router = prices.get("router", 0.0) if profile.get("router") else 0.0
    return float(router + replicas(profile, setting) * prices.get("tier1", 0.0))
