"""Train the heads of one kind on files of pairs: one per file, and a common one for categories that no file knows."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.heads.artefact import write_artefact
from models.heads.fit import Fitted, ForestShape, fit_head
from models.heads.pairs import data_sha256, question_keys
from routing.heads.calibration import Calibration, log_odds
from routing.heads.evidence import Floats, HeadKind
from routing.heads.manifest import Manifest
from routing.learning.labels import Pair
from routing.learning.quality import apgr, auroc, brier, ece, quality_curve

log = logging.getLogger(__name__)

COMMON = "common"


def train_panel(
    kind: HeadKind, sources: Sequence[tuple[str, Sequence[Pair]]], shape: ForestShape, out: Path, seed: int
) -> Manifest:
    """Fit, measure out of fold and write to `out`. sources: (name, pairs), one head each. Raises TooFewPairs."""
    everything = [pair for _, pairs in sources for pair in pairs]
    fitted = [fit_head(kind, name, pairs, shape, seed) for name, pairs in sources]
    metrics: dict[str, float | None] = {}
    for (name, pairs), one in zip(sources, fitted, strict=True):
        metrics |= {f"{name}/{key}": value for key, value in measure(pairs, one).items()}
    if len(sources) > 1:
        fitted.append(fit_head(kind, COMMON, everything, shape, seed))
    manifest = Manifest(
        kind=kind,
        tensors_sha256="0" * 64,
        data_sha256=data_sha256(everything),
        n_pairs=len(everything),
        seed=seed,
        heads=tuple(one.head.card for one in fitted),
        metrics=metrics,
    )
    return write_artefact(out, manifest, [one.head for one in fitted], question_keys(everything))


def measure(pairs: Sequence[Pair], fitted: Fitted) -> dict[str, float | None]:
    """Quality of a head on its own training pairs, out of fold, with all the signals it can use."""
    top = fitted.head.card.tops[-1]
    scores = fitted.out_of_fold[len(fitted.head.card.tops) - 1]
    curve = quality_curve(
        -scores[:, 0], np.array([p.tier1_quality for p in pairs]), np.array([p.frontier_quality for p in pairs])
    )
    bad = np.array([float(p.bad_draft) for p in pairs])
    p_ok = probabilities(top.tier1_ok, scores[:, 0], pairs)
    ok = np.array([float(p.tier1_ok) for p in pairs])
    return {
        "apgr": apgr(curve),
        "auroc_bad_draft": auroc(scores[:, 1], bad),
        "ece": ece(p_ok, ok),
        "brier": brier(p_ok, ok),
    }


def probabilities(calibration: Calibration, score: Floats, pairs: Sequence[Pair]) -> Floats:
    """Calibrated probability that the label of `score` does not hold."""
    return calibration.p_all(log_odds(1 - score), [pair.category for pair in pairs])
