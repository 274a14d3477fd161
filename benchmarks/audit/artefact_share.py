"""The share a calibrated router would keep on tier 1, asked of the artefact itself on a sample of the log's prompts."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from benchmarks.audit.call import AuditError
from benchmarks.audit.sample import Sampled
from routing.heads.evidence import HeadKind, Reads
from routing.heads.manifest import Look, Manifest
from routing.ladder.policy import PolicyConfig
from routing.learning.labels import Pair
from routing.tier1_share import Tier1Share, observed_share

USUAL_TARGET = PolicyConfig().quality_target
UNGRADED = {"tier1_quality": 0.0, "frontier_quality": 0.0}
ROOT = Path(__file__).resolve().parents[2]


def artefact_share(folder: Path, sampled: list[Sampled]) -> Tier1Share:
    """Score the sample by `python -m models score` and hold it against the artefact's own thresholds.

    A category without a threshold goes to the frontier.
    Raises AuditError when the artefact cannot be read, was never calibrated, or the log has no prompts.
    """
    path = folder / f"{HeadKind.ROUTER}.json"
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}; --artefact names the folder of a trained router") from error
    except ValidationError as error:
        raise AuditError(f"{path}: not the manifest of a router: {error}") from error
    from_prompt = [each for each in manifest.thresholds if each.looks == (Look(reads=Reads()),)]
    alone = min(from_prompt, key=lambda each: abs(each.quality_target - USUAL_TARGET), default=None)
    if alone is None:
        raise AuditError(f"{folder}: never calibrated; run `python -m models calibrate` on labels it has not seen")
    asked = [each for each in sampled if each.prompt and each.category]
    if not asked:
        raise AuditError("--artefact needs prompts to score, and this log holds none; leave the option out")
    kept = 0
    for row in score(folder, asked):
        threshold = alone.by_category.get(str(row["category"]))
        limit = threshold.threshold if threshold else None
        kept += limit is not None and float(str(row["p_tier1_ok"])) >= limit
    quality = f"calibrated for {alone.quality_target:.2f} of the frontier"
    return observed_share(kept, len(asked), f"artefact {folder.name}, {quality}, on {len(asked):,} prompts")


def score(folder: Path, asked: list[Sampled]) -> list[dict[str, object]]:
    """What the router says of each prompt. Grades are not known and not read by it; the format wants them."""
    with tempfile.TemporaryDirectory() as scratch:
        pairs = Path(scratch) / "prompts.jsonl"
        with pairs.open("w") as out:
            for number, each in enumerate(asked):
                pair = Pair(
                    id=str(number),
                    category=each.category or "",
                    prompt=each.prompt,
                    tier1_quality=0,
                    frontier_quality=0,
                )
                out.write(pair.model_dump_json() + "\n")
        command = [sys.executable, "-m", "models", "score", "--artefact", str(folder.resolve())]
        done = subprocess.run(
            [*command, "--kind", HeadKind.ROUTER.value, "--pairs", str(pairs)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise AuditError(f"{folder}: the router cannot score: {done.stderr.strip()[-400:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
