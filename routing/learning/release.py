"""A release: overrides of the reloadable sections, a canary beside them, and the version of each.

The flywheel writes a release and serving reads it by path. Neither imports the other.
"""

from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from routing.records import Record

RELEASE_FILE: Final = "release.json"
RELOADABLE: Final = frozenset({"policy", "gate"})  # they decide one request. Everything else needs a restart
MARK: Final = ".r"  # between the hash of the profile and the version of the release, in config_hash


class Variant(Record):
    """One version: what it changes, and which artefacts of the registry that came from, by kind."""

    version: int = Field(ge=1)
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="by section, laid over the profile")
    artefacts: dict[str, str] = Field(default_factory=dict)
    parent: int | None = Field(None, description="the version it replaced: where a rollback leads")

    @model_validator(mode="after")
    def _only_what_can_be_reloaded(self) -> Self:
        if unknown := set(self.overrides) - RELOADABLE:
            raise ValueError(f"overrides of {sorted(unknown)}: only {sorted(RELOADABLE)} can change while serving")
        return self


class Release(Record):
    """What serving runs: the stable variant, and for a share of the requests the canary."""

    format: Literal["tierwise-release/1"] = "tierwise-release/1"
    stable: Variant
    canary: Variant | None = None
    canary_ratio: float = Field(0.0, ge=0, le=1, description="share of requests. 0 without a canary")

    @model_validator(mode="after")
    def _canary_is_another_version(self) -> Self:
        if self.canary is not None and self.canary.version == self.stable.version:
            raise ValueError(f"canary and stable are both version {self.stable.version}")
        return self

    def variant_for(self, request_id: str) -> Variant:
        """The variant of one request. Its own random id (32 hex digits) decides."""
        if self.canary is not None and int(request_id[24:], 16) < self.canary_ratio * 2**32:
            return self.canary
        return self.stable


def marked(config_hash: str, version: int) -> str:
    """The config_hash that a request under a release records."""
    return f"{config_hash}{MARK}{version}"


def version_of(config_hash: str) -> int | None:
    """The release version in a recorded config_hash. None: the request ran without a release."""
    _, mark, version = config_hash.rpartition(MARK)
    return int(version) if mark and version.isdigit() else None
