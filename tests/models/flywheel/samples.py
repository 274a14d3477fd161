"""Samples and feedback for tests: a world in which tier 1 knows easy questions and the frontier all."""

from datetime import UTC, datetime, timedelta
from typing import Any

from routing.learning.samples import Feedback, Grader, Sample, SampleSource

START = datetime(2026, 3, 1, tzinfo=UTC)
NOUNS = ["apples", "trains", "coins", "houses", "letters", "birds", "lamps", "boats", "stones", "cards", "rivers"]


def question(i: int) -> str:
    """A question like no other: its words are drawn by i."""
    return " ".join(NOUNS[(i * k + k * k) % len(NOUNS)] + str((i * 7 + k) % 97) for k in range(1, 12))


def sample(i: int, *, tenant: str = "blue", good: bool = True, **changed: Any) -> Sample:
    """A shadowed sample, judged; minute i."""
    fields: dict[str, Any] = {
        "request_id": f"{i:032x}",
        "at": (START + timedelta(minutes=i)).isoformat(timespec="microseconds"),
        "tenant": tenant,
        "category": "chat",
        "source": SampleSource.SHADOW,
        "messages": ({"role": "user", "content": question(i)},),
        "tier1_output": "right" if good else "wrong",
        "frontier_output": "right indeed",
        "tier1_quality": 1.0 if good else 0.0,
        "frontier_quality": 1.0,
        "grader": Grader.PAIRWISE,
        "tier1_model": "small",
        "frontier_model": "large",
        "config_hash": "c0ffee",
    }
    return Sample.model_validate({**fields, **changed})


def said(i: int, rating: int | None = 1, *, tenant: str = "blue", correction: str | None = None) -> Feedback:
    """A client's word on sample i."""
    at = (START + timedelta(minutes=i, seconds=30)).isoformat(timespec="microseconds")
    return Feedback.model_validate(
        {"request_id": f"{i:032x}", "at": at, "tenant": tenant, "rating": rating, "correction": correction}
    )
