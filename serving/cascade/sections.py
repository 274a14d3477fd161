"""The sections of the configuration that decide one request."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import Field

from routing.gate.config import GateConfig
from routing.heads.decide import Learned
from routing.ladder.policy import PolicyConfig, adapter_of
from routing.records import Record
from serving.request.call import Adapter


class DraftConfig(Record):
    """How long to wait for a draft and what to do when tier 1 is full."""

    first_token_timeout_s: float = Field(30.0, gt=0)
    idle_timeout_s: float = Field(15.0, gt=0, description="longest gap between two frames of a draft")
    judge_timeout_s: float = Field(10.0, gt=0, description="for each paid signal of the gate")
    spill_when_full: bool = Field(False, description="a full tier 1 sends the request to the frontier instead of 429")


class CascadeConfig(Record):
    """How long to wait for the router and what to do when no frontier can answer."""

    router_timeout_s: float = Field(10.0, gt=0)
    degrade_when_frontier_down: bool = Field(
        False, description="show the tier-1 draft marked degraded instead of an honest 503"
    )


@dataclass(frozen=True, slots=True)
class Sections:
    """The sections of the configuration that decide one request, and the trained heads that they name."""

    policy: PolicyConfig
    gate: GateConfig
    draft: DraftConfig
    cascade: CascadeConfig
    learned: Learned = field(default_factory=Learned)
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def adapter_of(self, category: str) -> Adapter | None:
        """The adapter that tier 1 drafts a category with. None: its model without an adapter."""
        name = adapter_of(category, self.policy)
        return None if name is None else self.adapters[name]
