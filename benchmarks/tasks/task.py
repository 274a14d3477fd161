"""A task: what is asked, and the data a grader needs. No grader trusts a model's word for it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from routing.records import Record


class Exact(Record):
    """Right when the answer is one of `answers`. Case, outer punctuation and spacing do not count."""

    kind: Literal["exact"] = "exact"
    answers: tuple[str, ...] = Field(min_length=1)


class Number(Record):
    """Right when the last number of the answer is `value`. A unit or a sentence around it does not count."""

    kind: Literal["number"] = "number"
    value: float


class Json(Record):
    """Right when the answer is JSON equal to `value`. A code fence around it does not count."""

    kind: Literal["json"] = "json"
    value: dict[str, Any]


class Program(Record):
    """Right when the answer's Python function returns what every case expects. Run by sandbox.py."""

    kind: Literal["program"] = "program"
    function: str
    cases: tuple[tuple[list[Any], Any], ...] = Field(min_length=1, description="(arguments, expected result)")
    answer: str | None = Field(None, description="one that is right; no grader reads it")


class Listing(Record):
    """Right when the answer is `n_items` different items, each with a letter, between `separator`."""

    kind: Literal["listing"] = "listing"
    n_items: int = Field(ge=1)
    separator: str
    answer: str | None = Field(None, description="one that is right; no grader reads it")


Verifier = Annotated[Exact | Number | Json | Program | Listing, Field(discriminator="kind")]


class Task(Record):
    """One generated request. kind: its family, the suite's category. category: what routing derives from the prompt."""

    id: str
    kind: str
    level: int = Field(ge=1)
    category: str
    messages: tuple[dict[str, str], ...]
    max_tokens: int = Field(ge=1)
    response_format: dict[str, Any] | None = None
    verifier: Verifier

    @property
    def prompt(self) -> str:
        """The text of the user's message."""
        return self.messages[-1]["content"]

    def body(self, model: str) -> dict[str, Any]:
        """The request body, at temperature 0."""
        body = {"model": model, "messages": list(self.messages), "max_tokens": self.max_tokens, "temperature": 0}
        return body if self.response_format is None else {**body, "response_format": self.response_format}


@dataclass(frozen=True, slots=True)
class Question:
    """What a generator makes: a prompt, its grader's data, and room for the answer in tokens."""

    prompt: str
    verifier: Verifier
    max_tokens: int = 16
    response_format: dict[str, Any] | None = None


Generator = Callable[[random.Random, int], Question]  # (source of chance, level from 1) -> question
