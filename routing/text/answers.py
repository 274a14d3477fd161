"""Extracts the answer of a text in one comparable form, and counts how many further samples give the same answer.

A short text is its own answer. Of a long one the words are compared, because two good essays share most of their words.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

from routing.records import Agreement
from routing.text.request_body import edges, words
from routing.text.structure import normal_answer

SHORT_CHARS: Final = 80
SAME_WORDS_RATIO: Final = 0.7  # two long texts say the same from this F1 of their word counts on
_FENCE: Final = re.compile(r"```\w*\n(.*?)(?:```|$)", re.DOTALL)


def answer_of(text: str) -> str | None:
    """The answer in a text: canonical JSON, code without its fence, or the text itself when short. None: prose."""
    found = _FENCE.search(text)
    body = (found[1] if found else text).strip()
    if body[:1] in ("{", "["):
        try:
            return json.dumps(json.loads(edges(body)), sort_keys=True)
        except (ValueError, RecursionError):
            pass
    if found:
        return body or None
    return (body or None) if len(body) <= SHORT_CHARS else None


def same_answer(text: str, other: str) -> bool:
    """Whether two texts give the same answer. An empty one agrees with nothing."""
    own, theirs = answer_of(text), answer_of(other)
    if own is not None or theirs is not None:
        return normal_answer(own) is not None and normal_answer(own) == normal_answer(theirs)
    mine, yours = Counter(words(edges(text.lower()))), Counter(words(edges(other.lower())))
    total = mine.total() + yours.total()
    return total > 0 and 2 * (mine & yours).total() / total >= SAME_WORDS_RATIO


def agreement_of(draft: str, samples: Sequence[str]) -> Agreement:
    """How many of the samples (at least one) answer like the draft, and how many agree on something else."""
    others = [sample for sample in samples if not same_answer(draft, sample)]
    groups = ([same_answer(sample, other) for other in others[i + 1 :]] for i, sample in enumerate(others))
    rival = max((1 + sum(alike) for alike in groups), default=0)
    return Agreement(n_samples=len(samples), n_agree=len(samples) - len(others), n_rival=rival)


def answers_like(answer: str | None, agreement: Agreement) -> tuple[str | None, ...]:
    """Placeholders for the samples' answers that give the same agreement features.

    The ledger keeps counts, never texts. Training and serving both read the counts through this.
    """
    lone = agreement.n_samples - agreement.n_agree - agreement.n_rival
    own = answer if normal_answer(answer) is not None else "(prose)"
    return (*[own] * agreement.n_agree, *["(rival)"] * agreement.n_rival, *(f"(other {i})" for i in range(lone)))
