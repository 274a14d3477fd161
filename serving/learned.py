"""Load the trained heads that a configuration names, and refuse them by name when they do not fit it."""

from pathlib import Path

from routing.gate.config import GateConfig
from routing.heads.decide import Learned
from routing.heads.evidence import HeadKind
from routing.heads.head import Panel
from routing.ladder.policy import PolicyConfig
from serving.artefact import manifest_path, read_panel
from serving.errors import ConfigInvalid


def read_learned(policy: PolicyConfig, gate: GateConfig) -> Learned:
    """The heads of `policy.artefact` and `gate.artefact`. Raises ConfigInvalid naming the key and the reason.

    Refused: what `read_panel` refuses (wrong hash, other labels, a pickle), what was never calibrated, and a quality
    target that it was not calibrated for.
    """
    router = None if policy.artefact is None else checked("policy.artefact", policy.artefact, HeadKind.ROUTER, policy)
    judge = None if gate.artefact is None else checked("gate.artefact", gate.artefact, HeadKind.GATE, policy)
    if router is not None and judge is not None:
        lacking = set(judge.quality_targets) - {joint.quality_target for joint in router.manifest.joint}
        if lacking:
            raise ConfigInvalid(
                f"policy.artefact: the router was not calibrated for this gate at {sorted(lacking)};"
                " run `python -m models calibrate --kind router --draft-price SHARE`"
            )
    return Learned(router, judge)


def checked(key: str, folder: Path, kind: HeadKind, policy: PolicyConfig) -> Panel:
    """One panel, calibrated for every quality target that the policy names."""
    try:
        panel = read_panel(folder, kind)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{key}: {error.message}") from error
    wanted = {policy.quality_target} | {
        c.quality_target for c in policy.categories.values() if c.quality_target is not None
    }
    missing = wanted - set(panel.quality_targets)
    if missing:
        known = ", ".join(map(str, panel.quality_targets)) or "none"
        raise ConfigInvalid(
            f"{key}: {manifest_path(folder, kind)} was not calibrated for quality_target {sorted(missing)}"
            f" (for: {known}); run `python -m models calibrate`"
        )
    return panel
