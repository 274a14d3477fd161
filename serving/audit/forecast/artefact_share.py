"""Computes the share that a calibrated router would keep on tier 1, by scoring a sample of the log with it."""

from pathlib import Path

from routing.heads.evidence import Evidence, HeadKind, Reads, readable
from routing.heads.manifest import Look
from routing.ladder.policy import PolicyConfig
from serving.artefacts.heads import read_panel
from serving.audit.forecast.tier1_share import Tier1Share, observed_share
from serving.audit.traffic.sample import Sampled
from serving.errors import AuditError, ConfigInvalid

USUAL_TARGET = PolicyConfig().quality_target


def artefact_share(folder: Path, sampled: list[Sampled]) -> Tier1Share:
    """Score the sampled prompts and compare each score with the artefact's own threshold.

    A category without a threshold goes to the frontier.
    Raises AuditError when the artefact cannot be read, was never calibrated, or the log has no prompts.
    """
    try:
        panel = read_panel(folder, HeadKind.ROUTER)
    except ConfigInvalid as error:
        raise AuditError(f"{error.message}. --artefact names the folder of a trained router") from error
    from_prompt = [each for each in panel.manifest.thresholds if each.looks == (Look(reads=Reads()),)]
    alone = min(from_prompt, key=lambda each: abs(each.quality_target - USUAL_TARGET), default=None)
    if alone is None:
        raise AuditError(f"{folder}: never calibrated. Run `python -m models calibrate` on labels it has not seen")
    asked = [each for each in sampled if each.prompt and each.category]
    if not asked:
        raise AuditError("--artefact needs prompts to score, and this log holds none. Leave the option out")
    kept = 0
    for each in asked:
        threshold = alone.by_category.get(each.category or "")
        limit = threshold.threshold if threshold else None
        if limit is not None:
            kept += panel.score(Evidence(readable(each.prompt), each.category or "")).p_tier1_ok >= limit
    quality = f"calibrated for {alone.quality_target:.2f} of the frontier"
    return observed_share(kept, len(asked), f"artefact {folder.name}, {quality}, on {len(asked):,} prompts")
