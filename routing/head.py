"""The learned part of router and gate: text, structure and agreement in, probabilities out. Pure numpy, reads no files.

Two stages. A linear model over hashed words and letter groups, structure and category gives scores; a small forest over
these scores, structure, category and agreement corrects them. Both learn the gain, what the frontier is worth beyond
tier 1, because what is hopeless for tier 1 is often hopeless for the frontier too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.calibration import Calibration, Threshold, log_odds
from routing.forest import Forest
from routing.ngrams import N_BUCKETS, Buckets, letter_counts, word_counts
from routing.schema import Record
from routing.structure import agreement, agrees, draft_structure, prompt_structure

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

FORMAT: Final = "tierwise-head/1"
FEATURE_VERSION: Final = (
    1  # of ngrams, structure and arithmetic together: a change of any makes old weights meaningless
)
LABEL_SET: Final = ("gain", "bad_draft")  # what the scores of a head mean, in their order
N_FAMILIES: Final = 2  # words, letter groups
STRUCTURE_SCALE: Final = 0.05  # standardised counts beside text rows of norm 1; .1 costs .02 APGR on 754 pairs
MAX_DEVIATIONS: Final = 4.0  # one absurd count may not outweigh the text


class HeadKind(StrEnum):
    """What a head reads: the prompt alone, or the prompt with tier 1's draft."""

    ROUTER = "router"
    GATE = "gate"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a head may read of one request. The router reads prompt and category alone."""

    prompt: str
    category: str
    draft: str = ""
    answer: str | None = None
    other_answers: tuple[str | None, ...] = ()


class Scores(Record):
    """What a head says of one request.

    p_tier1_ok: tier 1 does as well as the frontier. p_draft_good: its answer is right. gain: expected quality that the
    frontier adds, about -1..1; orders requests best. n_labels: labels seen of the category, 0 marks a cold start.
    n_answers: how many further answers the score used.
    """

    p_tier1_ok: float = Field(ge=0, le=1)
    p_draft_good: float = Field(ge=0, le=1)
    gain: float
    n_labels: int = Field(ge=0)
    n_answers: int = Field(ge=0)


class TopCard(Record):
    """The second stage for one number of further answers."""

    n_answers: int = Field(ge=0)
    forest_weight: float = Field(ge=0, le=1, description="of the forest; the rest is the linear score")
    tier1_ok: Calibration = Field(description="of log_odds(1 - gain)")
    draft_good: Calibration = Field(description="of log_odds(1 - bad_draft)")


class HeadCard(Record):
    """One head without its numbers: which categories it knows and how its scores become probabilities."""

    name: str
    categories: tuple[str, ...]
    n_labels: tuple[int, ...] = Field(description="by category")
    tops: tuple[TopCard, ...] = Field(min_length=1, description="ascending n_answers")


class ThresholdSet(Record):
    """What may be shown when a score has used so many further answers; the promise holds for that score alone."""

    n_answers: int = Field(ge=0)
    by_category: dict[str, Threshold]


class Manifest(Record):
    """What lies beside the tensors; the tensors are used only when everything here fits."""

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
    quality_target: float | None = Field(None, ge=0, le=1, description="share of frontier quality the thresholds keep")
    metrics: dict[str, float | None] = Field(default_factory=dict, description="out of fold, on the training pairs")


TextRow = tuple[tuple[Buckets, Floats32], ...]


def texts_of(kind: HeadKind, evidence: Evidence) -> tuple[str, ...]:
    """The texts whose words count, one a slot."""
    return (evidence.prompt,) if kind is HeadKind.ROUTER else (evidence.prompt, evidence.draft)


def text_row(kind: HeadKind, evidence: Evidence) -> TextRow:
    """Buckets and counts of each (slot, family), slots outermost."""
    return tuple(count(text) for text in texts_of(kind, evidence) for count in (word_counts, letter_counts))


def structure_row(kind: HeadKind, evidence: Evidence) -> Floats:
    """Counts of the prompt, and of the draft for the gate."""
    prompt = prompt_structure(evidence.prompt)
    if kind is HeadKind.ROUTER:
        return prompt
    return np.concatenate([prompt, draft_structure(evidence.prompt, evidence.draft, evidence.answer)])


def answers_row(evidence: Evidence, n_answers: int) -> Floats:
    """Agreement of the draft's answer with the first n_answers others; empty for none."""
    if n_answers == 0:
        return np.zeros(0)
    others = evidence.other_answers[:n_answers]
    return np.concatenate([agreement(evidence.answer, others), agrees(evidence.answer, others)])


def weigh(row: tuple[Buckets, Floats32], idf: Floats32) -> tuple[Buckets, Floats32]:
    """Counts times inverse document frequency, scaled to norm 1; buckets rare in training weigh 0."""
    buckets, counts = row
    values = counts * idf[buckets]
    norm = float(np.sqrt(values @ values))
    return buckets, values / norm if norm > 0 else values


@dataclass(frozen=True)
class Linear:
    """The first stage. n_slots x 2 families of N_BUCKETS; n_targets = len(LABEL_SET).

    idf: float32 (n_rows, N_BUCKETS), n_rows = slots * families. text: float32 (n_rows, N_BUCKETS, n_targets).
    mean, spread: float64 (n_structure,). structure: float64 (n_structure, n_targets).
    category: float64 (n_categories, n_targets). bias: float64 (n_targets,).
    cold: float64 (n_structure, n_targets), the router's weights where it knows no label of the category: words learned
    elsewhere mislead there, length and structure carry over.
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
        """Scores of the LABEL_SET, shape (n_targets,). category: its index; None when unknown."""
        total = self.bias + self.standardise(structure) @ self.structure
        if category is not None:
            total = total + self.category[category]
        for counts, idf, weights in zip(row, self.idf, self.text, strict=True):
            buckets, values = weigh(counts, idf)
            total = total + values @ weights[buckets]
        return np.asarray(total, dtype=np.float64)


def scale_structure(structure: Floats, mean: Floats, spread: Floats) -> Floats:
    """Standard deviations from the mean, cut at MAX_DEVIATIONS, at the weight that structure has beside text."""
    z = (structure - mean) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.clip(z, -MAX_DEVIATIONS, MAX_DEVIATIONS) * STRUCTURE_SCALE)


@dataclass(frozen=True)
class Head:
    """Both stages of one head.

    rate: float64 (n_categories + 1, n_targets), shrunken means of the labels; the last row is the common one.
    """

    kind: HeadKind
    card: HeadCard
    linear: Linear
    rate: Floats
    forests: Mapping[int, Forest]

    def score(self, evidence: Evidence) -> Scores:
        """Judge one request by the richest stage that its answers allow."""
        category = self.card.categories.index(evidence.category) if evidence.category in self.card.categories else None
        structure = structure_row(self.kind, evidence)
        cold = category is None and self.kind is HeadKind.ROUTER
        if cold:
            linear = self.linear.cold_score(structure)
        else:
            linear = self.linear.score(text_row(self.kind, evidence), structure, category)
        top = max(
            (t for t in self.card.tops if t.n_answers <= len(evidence.other_answers)),
            key=lambda t: t.n_answers,
            default=self.card.tops[0],
        )
        gain, bad = linear
        if top.forest_weight > 0 and not cold:
            rate = self.rate[-1 if category is None else category]
            dense = dense_row(linear, rate, structure, answers_row(evidence, top.n_answers))
            forest = self.forests[top.n_answers].predict(dense[None, :])[0]
            gain, bad = top.forest_weight * forest + (1 - top.forest_weight) * linear
        return Scores(
            p_tier1_ok=top.tier1_ok.p(float(log_odds(1 - gain)), evidence.category),
            p_draft_good=top.draft_good.p(float(log_odds(1 - bad)), evidence.category),
            gain=float(gain),
            n_labels=0 if category is None else self.card.n_labels[category],
            n_answers=top.n_answers,
        )


def dense_row(linear: Floats, rate: Floats, structure: Floats, answers: Floats) -> Floats:
    """What the forest sees: scores of the first stage, the category's rates, structure, agreement."""
    return np.concatenate([linear, rate, structure, answers])


@dataclass(frozen=True)
class Panel:
    """The heads of an artefact: one per source of labels, and a common one for categories that none of them knows."""

    manifest: Manifest
    heads: Sequence[Head]

    def head_for(self, category: str) -> Head:
        """The head that knows the category, else the last one, which has seen every label."""
        return next((head for head in self.heads if category in head.card.categories), self.heads[-1])

    def score(self, evidence: Evidence) -> Scores:
        """Judge one request; takes no more than a few milliseconds."""
        return self.head_for(evidence.category).score(evidence)

    def threshold(self, category: str, n_answers: int) -> Threshold | None:
        """What was promised for a category and a score of so many answers; None: never calibrated, so the frontier."""
        found = (t.by_category.get(category) for t in self.manifest.thresholds if t.n_answers == n_answers)
        return next(found, None)


def panel_of(manifest: Manifest, tensors: Mapping[str, NDArray[np.generic]]) -> Panel:
    """Heads from a manifest and its tensors; raises ValueError for anything that does not fit together."""
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

    linear = Linear(
        idf=floats32("idf", n_rows, N_BUCKETS),
        text=floats32("text", n_rows, N_BUCKETS, n_targets),
        mean=floats("mean", n_structure),
        spread=floats("spread", n_structure),
        structure=floats("structure", n_structure, n_targets),
        category=floats("category", n_categories, n_targets),
        bias=floats("bias", n_targets),
        cold=floats("cold", n_structure, n_targets),
    )
    forests = {}
    for top in card.tops:
        name = f"forest{top.n_answers}"
        shape = tensors[f"{number}.{name}.feature"].shape
        forest = Forest(
            feature=take(f"{name}.feature", np.int32, *shape).astype(np.int32),
            threshold=take(f"{name}.threshold", np.float64, *shape).astype(np.float64),
            left=take(f"{name}.left", np.int32, *shape).astype(np.int32),
            right=take(f"{name}.right", np.int32, *shape).astype(np.int32),
            value=take(f"{name}.value", np.float32, *shape, n_targets).astype(np.float32),
        )
        n_answers = answers_row(Evidence("", "", other_answers=("",) * top.n_answers), top.n_answers).size
        forest.check(2 * n_targets + n_structure + n_answers, n_targets)
        forests[top.n_answers] = forest
    return Head(kind, card, linear, floats("rate", n_categories + 1, n_targets), forests)


def tensors_of(number: int, head: Head) -> dict[str, NDArray[np.generic]]:
    """The tensors of one head under the names that `panel_of` reads."""
    linear = head.linear
    tensors: dict[str, NDArray[np.generic]] = {
        "idf": linear.idf.astype(np.float16),
        "text": linear.text.astype(np.float16),
        "mean": linear.mean,
        "spread": linear.spread,
        "structure": linear.structure,
        "category": linear.category,
        "bias": linear.bias,
        "cold": linear.cold,
        "rate": head.rate,
    }
    for n_answers, forest in head.forests.items():
        for name in ("feature", "threshold", "left", "right", "value"):
            tensors[f"forest{n_answers}.{name}"] = getattr(forest, name)
    return {f"{number}.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
