"""What clients say without saying it: the same question asked again, or put in other words right after an answer.

Read from kept samples (learning.keep_texts_rate); weak signals, so they are reported per category and never a label.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Final

from pydantic import Field

from routing.learning.labels import question_key
from routing.learning.samples import Sample
from routing.records import Record

WINDOW: Final = timedelta(minutes=10)
REPHRASED_RATIO: Final = 0.6  # difflib's similarity of two questions; below it the subject has changed


class ImplicitSignals(Record):
    """Counts over the requests of one category that had a successor in time from the same tenant and session."""

    category: str
    n_followed: int = Field(ge=0)
    n_regenerated: int = Field(ge=0, description="the same conversation was asked again")
    n_rephrased: int = Field(ge=0, description="the conversation went on with the same question in other words")


def implicit_signals(samples: Sequence[Sample]) -> list[ImplicitSignals]:
    """Per category, in the order of the alphabet. Samples without a session are left out."""
    sessions: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda s: s.at):
        if sample.session_id is not None:
            sessions[(sample.tenant, sample.session_id)].append(sample)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for turns in sessions.values():
        for before, after in pairwise(turns):
            if datetime.fromisoformat(after.at) - datetime.fromisoformat(before.at) > WINDOW:
                continue
            count = counts[before.category]
            count[0] += 1
            count[1] += is_regeneration(before, after)
            count[2] += is_rephrased(before, after)
    return [
        ImplicitSignals(category=name, n_followed=n, n_regenerated=again, n_rephrased=other)
        for name, (n, again, other) in sorted(counts.items())
    ]


def is_regeneration(before: Sample, after: Sample) -> bool:
    """Whether the very same conversation was sent again."""
    return before.messages == after.messages


def is_rephrased(before: Sample, after: Sample) -> bool:
    """Whether the conversation goes on after the answer with nearly the question that was just answered."""
    asked, went_on = before.messages, after.messages
    if len(went_on) <= len(asked) or went_on[: len(asked)] != asked:
        return False
    first, second = asked[-1]["content"], went_on[-1]["content"]
    if question_key(first) == question_key(second):
        return True
    return SequenceMatcher(None, first.lower(), second.lower(), autojunk=False).ratio() >= REPHRASED_RATIO
