"""The description of a trained artefact: its features, labels and thresholds."""

from typing import Final

from pydantic import Field

from routing.heads.calibration import Calibration, Threshold
from routing.heads.evidence import HeadKind, Reads
from routing.records import Record

FORMAT: Final = "tierwise-head/3"
# Of ngrams, structure and arithmetic together: a change of any makes old weights meaningless.
FEATURE_VERSION: Final = 3
LABEL_SET: Final = ("gain", "bad_draft")  # what the scores of a head mean, in their order


class TopCard(Record):
    """One second stage: what it reads, and how its scores become probabilities."""

    reads: Reads
    forest_weight: float = Field(ge=0, le=1)
    logistic_weight: float = Field(ge=0, le=1, description="0 for a router. The rest of 1 is the linear score's")
    tier1_ok: Calibration = Field(description="of log_odds(1 - gain)")
    draft_good: Calibration = Field(description="of log_odds(1 - bad_draft)")


class HeadCard(Record):
    """One head without its numbers: which categories it knows and how its scores become probabilities."""

    name: str
    categories: tuple[str, ...]
    n_labels: tuple[int, ...] = Field(description="by category")
    tops: tuple[TopCard, ...] = Field(min_length=1, description="poorest first")


class Look(Record):
    """A look is a step of the sequence (routing/gate/signal_order.py): a second stage and what its signal costs."""

    reads: Reads
    price_ratio: float = Field(0.0, ge=0, le=1, description="of its signal, as a share of a frontier answer's price")


class ThresholdSet(Record):
    """What may be shown at one quality target after one sequence of steps. The promise holds for it alone."""

    quality_target: float = Field(ge=0, le=1, description="share of frontier quality that is kept")
    looks: tuple[Look, ...] = Field(min_length=1)
    by_category: dict[str, Threshold]


class JointThresholds(Record):
    """Where a draft behind a gate starts to pay, by category: the router's p_tier1_ok of least expected cost."""

    quality_target: float = Field(ge=0, le=1)
    by_category: dict[str, float]


class Manifest(Record):
    """The file beside the tensors. The tensors are used only when everything here fits."""

    format: str = FORMAT
    kind: HeadKind
    feature_version: int = FEATURE_VERSION
    label_set: tuple[str, ...] = LABEL_SET
    tensors_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the training pairs, in their order")
    n_pairs: int = Field(ge=1)
    seed: int
    heads: tuple[HeadCard, ...] = Field(min_length=1, description="the last one serves categories of no other")
    thresholds: tuple[ThresholdSet, ...] = Field((), description="empty: never calibrated")
    joint: tuple[JointThresholds, ...] = Field((), description="of a router that works in front of a learned gate")
    metrics: dict[str, float | None] = Field(default_factory=dict, description="out of fold, on the training pairs")
