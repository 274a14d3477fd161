"""Reads all configuration: a YAML profile, `STACK_*` variables over it, secrets as ${ENV}.

Each section is a frozen model in the room that it configures. `StackConfig` is the tree of all sections. Unknown keys
are refused by name. The hash of the resolved tree, without its secrets, goes into every ledger row.
"""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from routing.cost.attempt import CostConfig
from routing.cost.budget import BudgetConfig
from routing.gate.config import GateConfig
from routing.ladder.policy import PolicyConfig
from routing.records import Record
from serving.access.idempotency import IdempotencyConfig
from serving.cascade.releases import PromotionConfig
from serving.cascade.sections import CascadeConfig, DraftConfig, Sections
from serving.engine.config import EngineConfig
from serving.engine.standin import StandinConfig
from serving.errors import ConfigInvalid
from serving.gateway.config import GatewayConfig
from serving.gateway.response import ResponseConfig
from serving.hosted.config import FrontierConfig
from serving.learning.config import LearningConfig
from serving.ledger.config import LedgerConfig
from serving.telemetry.spans import TracesConfig

log = logging.getLogger(__name__)

RENAMED = {"release": "response"}  # sections of the version before
ENV_PREFIX = "STACK_"
ENV_NESTING = "__"
SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class HardwareConfig(Record):
    """One kind of machine. These numbers allocate nothing, but a plan that does not fit them is refused."""

    name: str = Field(min_length=1, description="in words")
    gpus: int = Field(0, ge=0, description="of the whole cluster at its largest, 0: engines run on CPUs")
    gpu_memory_gib: float | None = Field(None, gt=0, description="of one GPU, as nvidia-smi shows it, rounded down")
    memory_gib: float | None = Field(None, gt=0, description="host memory of one machine")


class StackConfig(Record):
    """The whole tree. Each section's docstring says what it configures."""

    gateway: GatewayConfig = GatewayConfig()
    response: ResponseConfig = ResponseConfig()
    router: EngineConfig | None = None
    tier1: EngineConfig
    frontier: FrontierConfig
    standin: StandinConfig | None = None
    policy: PolicyConfig = PolicyConfig()
    gate: GateConfig = GateConfig()
    draft: DraftConfig = DraftConfig()
    cascade: CascadeConfig = CascadeConfig()
    cost: CostConfig = CostConfig()
    budget: BudgetConfig = BudgetConfig()
    ledger: LedgerConfig
    idempotency: IdempotencyConfig = IdempotencyConfig()
    learning: LearningConfig = LearningConfig()
    promotion: PromotionConfig = PromotionConfig()
    traces: TracesConfig | None = None
    hardware: HardwareConfig | None = None

    @model_validator(mode="after")
    def _judge_needs_a_router(self) -> "StackConfig":
        if self.gate.judge_threshold is not None and self.router is None:
            raise ValueError("gate.judge_threshold is set but there is no router to ask; add `router:` or unset it")
        if self.gate.judge_threshold is not None and self.gate.artefact is not None:
            raise ValueError("gate.artefact rules by itself; unset gate.judge_threshold")
        return self

    @cached_property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the tree. Secrets are masked, so it can be shown."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def sections(self) -> Sections:
        """The sections that decide one request in the cascade."""
        return Sections(self.policy, self.gate, self.draft, self.cascade)


def load_config(path: Path, env: Mapping[str, str] = os.environ) -> StackConfig:
    """Read, overlay, resolve and validate a profile.

    STACK_GATEWAY__PORT=9000 sets gateway.port. The value is read as YAML. "${NAME}" anywhere in a text is replaced by
    that environment variable. Raises ConfigInvalid naming every key that is wrong.
    """
    return parse_config(read_tree(path, env), env, str(path))


def with_overrides(config: StackConfig, overrides: Mapping[str, Mapping[str, Any]]) -> StackConfig:
    """The tree with a release's values laid over it, validated as a profile is. Raises ConfigInvalid."""
    tree = merged(config.model_dump(), renamed(dict(overrides)))
    try:
        return StackConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigInvalid(f"the release does not fit the profile:\n{explain(error, tree)}") from None


def merged(tree: Any, over: Any) -> Any:
    """`tree` with the values of `over`. Mappings are merged, everything else is replaced. Changes neither."""
    if not isinstance(tree, dict) or not isinstance(over, Mapping):
        return over
    return {**tree, **{key: merged(tree.get(key), value) for key, value in over.items()}}


def read_tree(path: Path, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """A profile with STACK_* laid over it, its secrets still as ${NAME}. Raises ConfigInvalid."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigInvalid(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigInvalid(f"{path} must hold a mapping of sections, found {type(tree).__name__}")
    return renamed(overlay(tree, env))


def renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with sections under their names of today. A name of the version before is read, with a warning."""
    for old, new in RENAMED.items():
        if old in tree and new not in tree:
            log.warning("the profile's section `%s` is called `%s` now; the old name is read in this version", old, new)
            tree = {new if key == old else key: value for key, value in tree.items()}
    return tree


def parse_config(tree: dict[str, Any], env: Mapping[str, str], name: str) -> StackConfig:
    """The validated tree with its secrets put in. Messages call it `name`. Raises ConfigInvalid."""
    try:
        return StackConfig.model_validate(resolve_secrets(renamed(tree), env, ""))
    except ValidationError as error:
        # Not `from error`: its words quote values, and a value may be a secret.
        raise ConfigInvalid(f"{name} is not a valid configuration:\n{explain(error, tree)}") from None


def overlay(tree: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """The tree with STACK_* variables laid over it. The argument is not changed. Raises ConfigInvalid."""
    try:
        result: dict[str, Any] = json.loads(json.dumps(tree, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"a profile has plain keys and no loops: {error}") from error
    for name in sorted(n for n in env if n.startswith(ENV_PREFIX)):
        *parents, leaf = name.removeprefix(ENV_PREFIX).lower().split(ENV_NESTING)
        node = result
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise ConfigInvalid(f"{name}: {parent!r} is a value in the profile, not a section")
            node = child
        try:
            node[leaf] = yaml.safe_load(env[name])
        except yaml.YAMLError:
            raise ConfigInvalid(f"{name}: its value is not YAML") from None  # its words quote the value
    return result


def resolve_secrets(value: Any, env: Mapping[str, str], path: str) -> Any:
    """Replace ${NAME} in every text. No secret enters the tree otherwise. Raises ConfigInvalid when it is unset."""
    if isinstance(value, dict):
        return {k: resolve_secrets(v, env, f"{path}.{k}" if path else str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [resolve_secrets(v, env, f"{path}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def lookup(match: re.Match[str]) -> str:
        if match[1] not in env:
            raise ConfigInvalid(f"{path}: the environment variable {match[1]} is not set")
        return env[match[1]]

    return SECRET.sub(lookup, value)


def explain(error: ValidationError, tree: dict[str, Any]) -> str:
    """One line per wrong key: its dotted path, what is wrong, and the value seen unless it may be a secret.

    tree: the profile before its secrets were put in. A value that holds ${NAME} is shown as the profile has it.
    """
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        path = ".".join(str(part) for part in item["loc"]) or "(top level)"
        written = deepest(tree, item["loc"])
        seen = "" if "key" in path or isinstance(written, dict | list) else f" (seen: {written!r:.80})"
        lines.append(f"  {path}: {item['msg']}{seen}")
    return "\n".join(lines)


def deepest(tree: Any, path: Sequence[int | str]) -> Any:
    """The node at a path of the tree, or the last one before the path leaves it."""
    for part in path:
        try:
            tree = tree[part]
        except (KeyError, IndexError, TypeError):
            break
    return tree
