"""What a head reads of a request and a draft, as rows of features."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.heads.calibration import log_odds
from routing.learning.labels import Pair
from routing.records import Record
from routing.text.answers import answers_like
from routing.text.ngrams import Buckets, letter_counts, word_counts
from routing.text.request_body import edges
from routing.text.steering import without_steering
from routing.text.structure import agreement, agrees, draft_structure, exact_agreement, prompt_structure

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]


class HeadKind(StrEnum):
    """What a head reads: the prompt alone, or the prompt with tier 1's draft."""

    ROUTER = "router"
    GATE = "gate"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a head may read of one request. None: not known. The router reads prompt, category and p_router alone."""

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


MAX_ANSWERS: Final = 64
CHARS_PER_TOKEN: Final = 3.0  # of short answers and numbers. Prose has about 4
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
    """The texts whose words count, one for each slot."""
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
    """The signals of a second stage in one row. A signal that it does not read takes no column.

    In this order: agreement of the draft's answer with the first n_answers others, the router model's log odds, the
    `logprob_row`, the verdict's log odds.
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
