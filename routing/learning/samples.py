"""What the stack may learn from besides the ledger: redacted texts of sampled requests, and user feedback."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from routing.records import Api, Record
from routing.text.request_body import asked_text, conversation_text


class SampleSource(StrEnum):
    """How a sample came to be."""

    KEPT = "kept"  # a share of all requests
    SHADOW = "shadow"  # tier 1 answered, and the frontier was asked too
    ESCALATION = "escalation"  # the gate rejected a draft and the frontier answered


class Grader(StrEnum):
    """Who graded a sample, the surest first."""

    REFERENCE = "reference"
    VERIFIER = "verifier"
    PAIRWISE = "pairwise"
    FEEDBACK = "feedback"


class Sample(Record):
    """The redacted texts of one request. Outputs and grades are None where there are none.

    messages: the conversation as it was asked, each {"role", "content"}. A completion is one user message.
    """

    request_id: str
    at: str = Field(description="UTC, ISO 8601 with microseconds: when the request began")
    tenant: str
    category: str
    session_id: str | None = None
    source: SampleSource
    messages: tuple[dict[str, str], ...]
    response_format: dict[str, Any] | None = None
    tier1_output: str | None = None
    frontier_output: str | None = None
    tier1_quality: float | None = Field(None, ge=0, le=1)
    frontier_quality: float | None = Field(None, ge=0, le=1)
    grader: Grader | None = None
    tier1_model: str | None = None
    frontier_model: str | None = None
    config_hash: str

    @property
    def prompt(self) -> str:
        """The conversation as one text: the last user message alone where nothing went before it."""
        return conversation_text({"messages": list(self.messages)}, Api.CHAT)

    @property
    def asked(self) -> str:
        """The same without the system prompt: what heads read, in training as in serving."""
        return asked_text({"messages": list(self.messages)}, Api.CHAT)


class Feedback(Record):
    """A client's feedback on one of its requests. A later one replaces an earlier one."""

    request_id: str
    at: str = Field(description="UTC, ISO 8601 with microseconds: when it was said")
    tenant: str
    rating: Literal[-1, 1] | None = Field(None, description="1: good, -1: bad. None: only a correction")
    correction: str | None = Field(None, description="redacted, what the answer should have been")
