"""The learned part of router and gate: text, structure and agreement in, probabilities out. Pure numpy, reads no files.

Two stages. A linear model over hashed words, letter groups, structure and category gives scores. A small forest over
these scores, structure, category and signals corrects them. The gate adds a logistic model of the same columns.
All learn the gain: what the frontier is worth beyond tier 1. A request that is hopeless for tier 1 is often hopeless
for the frontier too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.heads.calibration import log_odds
from routing.heads.evidence import (
    ALL_KNOWN,
    Evidence,
    Floats,
    Floats32,
    HeadKind,
    Reads,
    TextRow,
    signals_row,
    structure_row,
    text_row,
    texts_of,
)
from routing.heads.forest import Forest
from routing.heads.logistic import Logistic, standardised
from routing.heads.manifest import FEATURE_VERSION, FORMAT, LABEL_SET, HeadCard, Manifest, ThresholdSet
from routing.records import Record
from routing.text.ngrams import N_BUCKETS, Buckets

_SCALE, _SHIFT = np.array([2.0, 1.0]), np.array([1.0, 0.0])  # a gain of -1..1 as a share 0..1
N_FAMILIES: Final = 2  # words, letter groups
STRUCTURE_SCALE: Final = 0.05  # counts beside text rows of norm 1. A scale of 0.1 loses 0.02 APGR on 754 pairs


class Scores(Record):
    """A head's scores of one request.

    p_tier1_ok: probability that tier 1 does as well as the frontier. p_draft_good: that its answer is right.
    gain: expected quality that the frontier adds, about -1..1. It orders requests best.
    n_labels: labels seen of the category. 0 marks a cold start.
    n_answers: how many further answers the score used.
    """

    p_tier1_ok: float = Field(ge=0, le=1)
    p_draft_good: float = Field(ge=0, le=1)
    gain: float
    n_labels: int = Field(ge=0)
    n_answers: int = Field(ge=0)


def weigh(row: tuple[Buckets, Floats32], idf: Floats32) -> tuple[Buckets, Floats32]:
    """Counts times inverse document frequency, scaled to norm 1. Buckets rare in training weigh 0."""
    buckets, counts = row
    values = counts * idf[buckets]
    norm = float(np.sqrt(values @ values))
    return buckets, values / norm if norm > 0 else values


@dataclass(frozen=True)
class Linear:
    """The first stage. n_slots x 2 families of N_BUCKETS. n_targets = len(LABEL_SET).

    idf: float32 (n_rows, N_BUCKETS), n_rows = slots * families. text: float32 (n_rows, N_BUCKETS, n_targets).
    mean, spread: float64 (n_structure,). structure: float64 (n_structure, n_targets).
    category: float64 (n_categories, n_targets). bias: float64 (n_targets,).
    cold: float64 (n_structure, n_targets), the router's weights where it knows no label of the category. Words learned
    from other categories mislead there. Length and structure carry over.
    """

    idf: Floats32
    text: Floats32
    mean: Floats
    spread: Floats
    structure: Floats
    category: Floats
    bias: Floats
    cold: Floats

    def standardise(self, structure: Floats) -> Floats:
        """Counts as the model was trained on them, shape kept."""
        return scale_structure(structure, self.mean, self.spread)

    def cold_score(self, structure: Floats) -> Floats:
        """Scores of the LABEL_SET from length and structure alone, shape (n_targets,)."""
        return np.asarray(self.bias + self.standardise(structure) @ self.cold)

    def score(self, row: TextRow, structure: Floats, category: int | None) -> Floats:
        """Scores of the LABEL_SET, shape (n_targets,). category: its index, None when unknown."""
        total = self.bias + self.standardise(structure) @ self.structure
        if category is not None:
            total = total + self.category[category]
        for counts, idf, weights in zip(row, self.idf, self.text, strict=True):
            buckets, values = weigh(counts, idf)
            total = total + values @ weights[buckets]
        return np.asarray(total, dtype=np.float64)


def scale_structure(structure: Floats, mean: Floats, spread: Floats) -> Floats:
    """Standard deviations from the mean, cut at MAX_DEVIATIONS, at the weight that structure has beside text."""
    return standardised(structure, mean, spread) * STRUCTURE_SCALE


@dataclass(frozen=True)
class Head:
    """Both stages of one head.

    rate: float64 (n_categories + 1, n_targets), shrunken means of the labels. The last row is the common one.
    forests, logistics: of each second stage, by its number. A router has no logistic models (benchmarks/LOG.md).
    """

    kind: HeadKind
    card: HeadCard
    linear: Linear
    rate: Floats
    forests: Mapping[int, Forest]
    logistics: Mapping[int, Logistic]

    def score(self, evidence: Evidence, reads: Reads | None = None) -> Scores:
        """Judge one request by one second stage, or by the richest that the evidence allows.

        Raises ValueError when there is no such stage, or the evidence lacks what it reads.
        """
        number = self.stage(evidence, reads)
        top = self.card.tops[number]
        category = self.card.categories.index(evidence.category) if evidence.category in self.card.categories else None
        structure = structure_row(self.kind, evidence)
        cold = category is None and self.kind is HeadKind.ROUTER
        if cold:
            linear = self.linear.cold_score(structure)
        else:
            linear = self.linear.score(text_row(self.kind, evidence), structure, category)
        estimate = linear
        if not cold:
            rate = self.rate[-1 if category is None else category]
            dense = dense_row(linear, rate, structure, signals_row(evidence, top.reads))
            estimate = (1 - top.forest_weight - top.logistic_weight) * linear
            if top.forest_weight > 0:
                estimate = estimate + top.forest_weight * self.forests[number].predict(dense[None, :])[0]
            if top.logistic_weight > 0:
                shares = self.logistics[number].predict(dense, category)
                estimate = estimate + top.logistic_weight * labels_of(shares)
        gain, bad = estimate
        return Scores(
            p_tier1_ok=top.tier1_ok.p(float(log_odds(1 - gain)), evidence.category),
            p_draft_good=top.draft_good.p(float(log_odds(1 - bad)), evidence.category),
            gain=float(gain),
            n_labels=0 if category is None else self.card.n_labels[category],
            n_answers=top.reads.n_answers,
        )

    def stage(self, evidence: Evidence, reads: Reads | None = None) -> int:
        """Number of the second stage that reads just this, or of the richest that the evidence allows."""
        fitting = [i for i, top in enumerate(self.card.tops) if top.reads == reads or reads is None]
        fitting = [i for i in fitting if self.card.tops[i].reads.known(evidence)]
        if not fitting:
            raise ValueError(f"{self.card.name}: no second stage for this evidence reads {reads}")
        return fitting[-1]


def dense_row(linear: Floats, rate: Floats, structure: Floats, signals: Floats) -> Floats:
    """What the forest sees: scores of the first stage, the category's rates, structure, signals."""
    return np.concatenate([linear, rate, structure, signals])


def shares_of(labels: Floats) -> Floats:
    """The LABEL_SET as shares 0..1, which a logistic model can predict. labels: (..., n_targets)."""
    return np.asarray((labels + _SHIFT) / _SCALE)


def labels_of(shares: Floats) -> Floats:
    """The inverse of `shares_of`."""
    return np.asarray(shares * _SCALE - _SHIFT)


@dataclass(frozen=True)
class Panel:
    """The heads of an artefact: one per source of labels, and a common one for categories that none of them knows."""

    manifest: Manifest
    heads: Sequence[Head]

    def head_for(self, category: str) -> Head:
        """The head that knows the category, else the last one, which has seen every label."""
        return next((head for head in self.heads if category in head.card.categories), self.heads[-1])

    def score(self, evidence: Evidence, reads: Reads | None = None) -> Scores:
        """Judge one request in a few milliseconds at most. Raises ValueError as Head.score does."""
        return self.head_for(evidence.category).score(evidence, reads)

    @property
    def quality_targets(self) -> tuple[float, ...]:
        """The shares of frontier quality that thresholds were chosen for, ascending."""
        return tuple(sorted({t.quality_target for t in self.manifest.thresholds}))

    def sequences(self, quality_target: float) -> tuple[ThresholdSet, ...]:
        """The calibrated sequences of steps for one quality target, shortest first."""
        found = [t for t in self.manifest.thresholds if t.quality_target == quality_target]
        return tuple(sorted(found, key=lambda t: len(t.looks)))


def panel_of(manifest: Manifest, tensors: Mapping[str, NDArray[np.generic]]) -> Panel:
    """Heads from a manifest and its tensors. Raises ValueError when they do not fit together."""
    if manifest.format != FORMAT:
        raise ValueError(f"format {manifest.format!r} is not {FORMAT!r}")
    if manifest.feature_version != FEATURE_VERSION:
        raise ValueError(
            f"trained on feature version {manifest.feature_version}, this is {FEATURE_VERSION}: train again"
        )
    if manifest.label_set != LABEL_SET:
        raise ValueError(f"labels {manifest.label_set} are not {LABEL_SET}")
    try:
        return Panel(manifest, [_head(manifest.kind, c, i, tensors) for i, c in enumerate(manifest.heads)])
    except KeyError as error:
        raise ValueError(f"tensor {error} is missing") from error


def _head(kind: HeadKind, card: HeadCard, number: int, tensors: Mapping[str, NDArray[np.generic]]) -> Head:
    probe = Evidence(prompt="", category="")
    n_rows, n_targets = len(texts_of(kind, probe)) * N_FAMILIES, len(LABEL_SET)
    n_structure, n_categories = structure_row(kind, probe).size, len(card.categories)
    if len(card.n_labels) != n_categories:
        raise ValueError("n_labels and categories differ in length")

    def take(name: str, dtype: type[np.generic], *shape: int) -> NDArray[np.generic]:
        tensor = tensors[f"{number}.{name}"]
        if tensor.dtype != dtype or tensor.shape != shape:
            raise ValueError(f"tensor {name}: {tensor.dtype} {tensor.shape}, expected {np.dtype(dtype)} {shape}")
        if np.issubdtype(dtype, np.floating) and not np.isfinite(tensor.astype(np.float64)).all():
            raise ValueError(f"tensor {name} holds NaN or infinity")
        return tensor

    def floats(name: str, *shape: int) -> Floats:
        return take(name, np.float64, *shape).astype(np.float64)

    def floats32(name: str, *shape: int) -> Floats32:
        # Stored in half: weights of a regularised model need three digits.
        return take(name, np.float16, *shape).astype(np.float32)

    idf = np.zeros((n_rows, N_BUCKETS), dtype=np.float32)
    text = np.zeros((n_rows, N_BUCKETS, n_targets), dtype=np.float32)
    for row in range(n_rows):  # stored without the buckets that were rare in training, which weigh nothing
        n_used = tensors[f"{number}.bucket{row}"].size
        bucket = take(f"bucket{row}", np.int32, n_used).astype(np.int64)
        if n_used and (bucket[0] < 0 or bucket[-1] >= N_BUCKETS or np.any(np.diff(bucket) <= 0)):
            raise ValueError(f"tensor bucket{row} is not an ascending list of buckets")
        idf[row, bucket] = floats32(f"idf{row}", n_used)
        text[row, bucket] = floats32(f"text{row}", n_used, n_targets)
    linear = Linear(
        idf=idf,
        text=text,
        mean=floats("mean", n_structure),
        spread=floats("spread", n_structure),
        structure=floats("structure", n_structure, n_targets),
        category=floats("category", n_categories, n_targets),
        bias=floats("bias", n_targets),
        cold=floats("cold", n_structure, n_targets),
    )
    forests, logistics = {}, {}
    for stage, top in enumerate(card.tops):
        name = f"forest{stage}"
        shape = tensors[f"{number}.{name}.feature"].shape
        forest = Forest(
            feature=take(f"{name}.feature", np.int32, *shape).astype(np.int32),
            threshold=take(f"{name}.threshold", np.float64, *shape).astype(np.float64),
            left=take(f"{name}.left", np.int32, *shape).astype(np.int32),
            right=take(f"{name}.right", np.int32, *shape).astype(np.int32),
            value=take(f"{name}.value", np.float32, *shape, n_targets).astype(np.float32),
        )
        n_columns = 2 * n_targets + n_structure + signals_row(ALL_KNOWN, top.reads).size
        forest.check(n_columns, n_targets)
        forests[stage] = forest
        if kind is HeadKind.GATE:
            name = f"logistic{stage}"
            logistics[stage] = Logistic(
                mean=floats(f"{name}.mean", n_columns),
                spread=floats(f"{name}.spread", n_columns),
                weights=floats(f"{name}.weights", n_categories + 1, n_columns, n_targets),
                bias=floats(f"{name}.bias", n_categories + 1, n_targets),
            )
    return Head(kind, card, linear, floats("rate", n_categories + 1, n_targets), forests, logistics)


def tensors_of(number: int, head: Head) -> dict[str, NDArray[np.generic]]:
    """The tensors of one head under the names that `panel_of` reads."""
    linear = head.linear
    tensors: dict[str, NDArray[np.generic]] = {
        "mean": linear.mean,
        "spread": linear.spread,
        "structure": linear.structure,
        "category": linear.category,
        "bias": linear.bias,
        "cold": linear.cold,
        "rate": head.rate,
    }
    for row, (idf, text) in enumerate(zip(linear.idf, linear.text, strict=True)):
        bucket = np.flatnonzero(idf)
        tensors[f"bucket{row}"] = bucket.astype(np.int32)
        tensors[f"idf{row}"], tensors[f"text{row}"] = idf[bucket].astype(np.float16), text[bucket].astype(np.float16)
    for stage, forest in head.forests.items():
        for name in ("feature", "threshold", "left", "right", "value"):
            tensors[f"forest{stage}.{name}"] = getattr(forest, name)
    for stage, logistic in head.logistics.items():
        for name in ("mean", "spread", "weights", "bias"):
            tensors[f"logistic{stage}.{name}"] = getattr(logistic, name)
    return {f"{number}.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
