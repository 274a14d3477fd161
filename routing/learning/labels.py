"""Graded pairs: what tier 1 and the frontier scored on one prompt. The flywheel writes and training reads them."""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pydantic import Field

from routing.records import Agreement, Record

_OPTIONS: Final = re.compile(r"\n\s*\(?A[.)]\s")
_NOT_A_WORD: Final = re.compile(r"\W+")
_SHORT_STEM_CHARS: Final = 40  # a shorter stem ("which is true?") does not tell two questions apart


class Provenance(Record):
    """Where a label of our own comes from. tenant is a hash, enough to tell tenants apart and to limit one."""

    request_id: str
    at: str
    tenant: str
    grader: str
    tier1_model: str | None = None
    frontier_model: str | None = None
    config_hash: str | None = None


class Pair(Record):
    """One prompt with both tiers' graded answers. Texts and extracted answers are there where the source has them."""

    id: str
    category: str = Field(min_length=1)
    prompt: str
    tier1_quality: float = Field(ge=0, le=1)
    frontier_quality: float = Field(ge=0, le=1)
    tier1_output: str | None = None
    frontier_output: str | None = None
    tier1_answer: str | None = Field(None, description="the extracted answer of the draft. None: none found")
    other_answers: tuple[str | None, ...] = Field((), description="the same of other models or samples")
    provenance: Provenance | None = Field(None, description="None: from outside")
    p_router: float | None = Field(None, ge=0, le=1, description="the router model's own score of the prompt")
    mean_logprob: float | None = Field(None, le=0, description="of tier 1's tokens, nats")
    worst_token_logprob: float | None = Field(None, le=0)
    p_judge_ok: float | None = Field(None, ge=0, le=1, description="the router model's verdict on the draft")
    agreement: Agreement | None = Field(None, description="of further samples. Stands in for other_answers")

    @property
    def gain(self) -> float:
        """What the frontier is worth here, -1..1: the difference that a router is trained on."""
        return self.frontier_quality - self.tier1_quality

    @property
    def tier1_ok(self) -> bool:
        """Tier 1 answered as well as the frontier."""
        return self.gain <= 0

    @property
    def bad_draft(self) -> bool:
        """Tier 1's answer is wrong, whatever the frontier says."""
        return self.tier1_quality < 0.5


def read_pairs(lines: Iterable[str]) -> list[Pair]:
    """Pairs of JSON lines. Blank lines are skipped. Raises ValueError naming the line that does not fit the schema."""
    pairs = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                pairs.append(Pair.model_validate_json(line))
            except ValueError as error:
                raise ValueError(f"line {number} is no graded pair: {error}") from error
    return pairs


def question_key(prompt: str) -> str:
    """Equal for prompts that ask the same: case, spacing, punctuation and the answer options do not count."""
    stem = _NOT_A_WORD.sub(" ", _OPTIONS.split(prompt, maxsplit=1)[0].lower()).strip()
    if len(stem) < _SHORT_STEM_CHARS:
        stem = _NOT_A_WORD.sub(" ", prompt.lower()).strip()
    return hashlib.blake2b(stem.encode("utf-8", "replace"), digest_size=16).hexdigest()


def fold_of(prompt: str, n_folds: int, seed: int) -> int:
    """Fold 0..n_folds-1 of a prompt: the same in every file and for every wording of one question."""
    digest = hashlib.blake2b(f"{seed}:{question_key(prompt)}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % n_folds


def split_by_prompt(pairs: Sequence[Pair], test_ratio: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, test). All rows of one question lie on the same side. test_ratio: share of questions, 0..1."""
    steps = 1000
    cut = round(test_ratio * steps)
    train: list[Pair] = []
    test: list[Pair] = []
    for pair in pairs:
        (test if fold_of(pair.prompt, steps, seed) < cut else train).append(pair)
    return train, test


def without_questions(pairs: Iterable[Pair], prompts: Collection[str]) -> list[Pair]:
    """The pairs whose question is none of `prompts`. They may be trained on when those prompts are the test."""
    keys = {question_key(p) for p in prompts}
    return [pair for pair in pairs if question_key(pair.prompt) not in keys]
