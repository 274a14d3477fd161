"""The learned part of router and gate: text, structure and agreement in, probabilities out. Pure numpy, reads no files.

Two stages. A linear model over hashed words and letter groups, structure and category gives scores; a small forest over
these scores, structure, category and signals corrects them, for the gate beside a logistic model of the same columns.
All learn the gain, what the frontier is worth beyond tier 1, because what is hopeless for tier 1 is often hopeless for
the frontier too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.answers import answers_like
from routing.calibration import Calibration, Threshold, log_odds
from routing.forest import Forest
from routing.labels import Pair
from routing.logistic import Logistic, standardised
from routing.ngrams import N_BUCKETS, Buckets, letter_counts, word_counts
from routing.schema import Record
from routing.steering import without_steering
from routing.structure import agreement, agrees, draft_structure, exact_agreement, prompt_structure
from routing.text import edges

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]

FORMAT: Final = "tierwise-head/3"
FEATURE_VERSION: Final = (
    3  # of ngrams, structure and arithmetic together: a change of any makes old weights meaningless
)
LABEL_SET: Final = ("gain", "bad_draft")  # what the scores of a head mean, in their order
_SCALE, _SHIFT = np.array([2.0, 1.0]), np.array([1.0, 0.0])  # a gain of -1..1 as a share 0..1
N_FAMILIES: Final = 2  # words, letter groups
STRUCTURE_SCALE: Final = 0.05  # standardised counts beside text rows of norm 1; .1 costs .02 APGR on 754 pairs


class HeadKind(StrEnum):
    """What a head reads: the prompt alone, or the prompt with tier 1's draft."""

    ROUTER = "router"
    GATE = "gate"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a head may read of one request; None: not known. The router reads prompt, category and p_router alone."""

    prompt: str
    category: str
    draft: str = ""
    answer: str | None = None
    other_answers: tuple[str | None, ...] = ()
    p_router: float | None = None
    mean_logprob: float | None = None
    worst_token_logprob: float | None = None
    p_judge_ok: float | None = None


class Reads(Record):
    """What a second stage reads beside text, structure and category."""

    router: bool = False
    logprobs: bool = False
    n_answers: int = Field(0, ge=0, le=64)
    verdict: bool = False

    def known(self, evidence: Evidence) -> bool:
        """Whether the evidence holds all of it."""
        return (
            (not self.router or evidence.p_router is not None)
            and (not self.logprobs or (evidence.mean_logprob is not None and evidence.worst_token_logprob is not None))
            and self.n_answers <= len(evidence.other_answers)
            and (not self.verdict or evidence.p_judge_ok is not None)
        )


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
    """One second stage: what it reads, and how its scores become probabilities."""

    reads: Reads
    forest_weight: float = Field(ge=0, le=1)
    logistic_weight: float = Field(ge=0, le=1, description="0 for a router; what both leave is the linear score's")
    tier1_ok: Calibration = Field(description="of log_odds(1 - gain)")
    draft_good: Calibration = Field(description="of log_odds(1 - bad_draft)")


class HeadCard(Record):
    """One head without its numbers: which categories it knows and how its scores become probabilities."""

    name: str
    categories: tuple[str, ...]
    n_labels: tuple[int, ...] = Field(description="by category")
    tops: tuple[TopCard, ...] = Field(min_length=1, description="poorest first")


class Look(Record):
    """One step of a sequence (routing/sequence.py): a second stage, and what its signal costs."""

    reads: Reads
    price_ratio: float = Field(0.0, ge=0, le=1, description="of its signal, as a share of a frontier answer's price")


class ThresholdSet(Record):
    """What may be shown at one quality target after one sequence of looks; the promise holds for that walk alone."""

    quality_target: float = Field(ge=0, le=1, description="share of frontier quality that is kept")
    looks: tuple[Look, ...] = Field(min_length=1)
    by_category: dict[str, Threshold]


class JointThresholds(Record):
    """Where a draft behind a gate starts to pay, by category: the router's p_tier1_ok of least expected cost."""

    quality_target: float = Field(ge=0, le=1)
    by_category: dict[str, float]


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
    joint: tuple[JointThresholds, ...] = Field((), description="of a router that works in front of a learned gate")
    metrics: dict[str, float | None] = Field(default_factory=dict, description="out of fold, on the training pairs")


MAX_ANSWERS: Final = 64
CHARS_PER_TOKEN: Final = 3.0  # of short answers and numbers; prose has about 4
ALL_KNOWN: Final = Evidence(
    "", "", other_answers=("",) * MAX_ANSWERS, p_router=0.5, mean_logprob=0.0, worst_token_logprob=0.0, p_judge_ok=0.5
)

TextRow = tuple[tuple[Buckets, Floats32], ...]


def readable(prompt: str) -> str:
    """A prompt as heads read it, in training as in serving: its edges, without sentences that ask for a tier."""
    return without_steering(edges(prompt))


def evidence_of(pair: Pair, kind: HeadKind) -> Evidence:
    """What a head of this kind may see of a pair: never a grade, never the frontier's answer."""
    if kind is HeadKind.ROUTER:
        return Evidence(readable(pair.prompt), pair.category, p_router=pair.p_router)
    return Evidence(
        readable(pair.prompt),
        pair.category,
        pair.tier1_output or "",
        pair.tier1_answer,
        pair.other_answers if pair.agreement is None else answers_like(pair.tier1_answer, pair.agreement),
        mean_logprob=pair.mean_logprob,
        worst_token_logprob=pair.worst_token_logprob,
        p_judge_ok=pair.p_judge_ok,
    )


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


def signals_row(evidence: Evidence, reads: Reads) -> Floats:
    """What a second stage sees of its signals: agreement of the draft's answer with the first n_answers others, the

    router model's log odds, the `logprob_row`, the verdict's log odds; empty for what it does not read.
    """
    parts: list[Floats] = []
    if reads.n_answers:
        others = evidence.other_answers[: reads.n_answers]
        parts += [agreement(evidence.answer, others), agrees(evidence.answer, others)]
        parts.append(exact_agreement(evidence.answer, others))
    if reads.router:
        parts.append(log_odds(np.array([evidence.p_router])))
    if reads.logprobs:
        parts.append(logprob_row(evidence))
    if reads.verdict:
        parts.append(log_odds(np.array([evidence.p_judge_ok])))
    return np.concatenate([np.zeros(0), *parts])


def logprob_row(evidence: Evidence) -> Floats:
    """Mean and worst token, and ln(1 - logprob of the whole draft), whose tokens are estimated from its length."""
    assert evidence.mean_logprob is not None
    n_tokens = 1 + len(evidence.draft) / CHARS_PER_TOKEN
    worst = evidence.worst_token_logprob
    return np.array([evidence.mean_logprob, worst, np.log1p(-evidence.mean_logprob * n_tokens)], dtype=np.float64)


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
    return standardised(structure, mean, spread) * STRUCTURE_SCALE


@dataclass(frozen=True)
class Head:
    """Both stages of one head.

    rate: float64 (n_categories + 1, n_targets), shrunken means of the labels; the last row is the common one.
    forests, logistics: of each second stage, by its number; a router has no logistic models (benchmarks/LOG.md).
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
    """The LABEL_SET as shares 0..1, which a logistic model can predict; labels: (..., n_targets)."""
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
        """Judge one request; takes no more than a few milliseconds. Raises ValueError as Head.score does."""
        return self.head_for(evidence.category).score(evidence, reads)

    @property
    def quality_targets(self) -> tuple[float, ...]:
        """The shares of frontier quality that thresholds were chosen for, ascending."""
        return tuple(sorted({t.quality_target for t in self.manifest.thresholds}))

    def sequences(self, quality_target: float) -> tuple[ThresholdSet, ...]:
        """The calibrated sequences of looks for one target, shortest first."""
        found = [t for t in self.manifest.thresholds if t.quality_target == quality_target]
        return tuple(sorted(found, key=lambda t: len(t.looks)))


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
