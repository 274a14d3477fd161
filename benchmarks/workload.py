"""A load as a file: conversations with shared beginnings, drawn from a seed, sent so many at a time.

The files are in benchmarks/workloads/. Words, not tokens, are counted, because a client does not know the tokenizer.
"""

import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.client import Sample, closed_loop

FOLDER = Path(__file__).parent / "workloads"
# About one token each for every tokenizer of these days.
WORDS = [
    "river",
    "stone",
    "cloud",
    "green",
    "seven",
    "paper",
    "light",
    "north",
    "table",
    "glass",
    "quiet",
    "early",
    "metal",
    "bread",
    "winter",
    "round",
    "story",
    "small",
    "engine",
    "garden",
    "letter",
    "window",
    "mother",
    "summer",
    "yellow",
    "bridge",
    "carbon",
    "doctor",
    "estate",
    "family",
    "ground",
    "island",
]


class Workload(BaseModel):
    """See the files for what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sessions: int = Field(ge=1)
    turns: int = Field(1, ge=1)
    groups: int = Field(0, ge=0, description="distinct system prompts; 0: none")
    system_words: int = Field(0, ge=0)
    user_words: int = Field(ge=1)
    output_tokens: int = Field(ge=1)
    concurrency: int = Field(1, ge=1)
    seed: int = 0

    @property
    def requests(self) -> int:
        """Requests sent in all."""
        return self.sessions * self.turns

    def opening(self, session: int) -> list[dict[str, str]]:
        """The messages before the first user message: the system prompt of the session's group."""
        if not self.groups or not self.system_words:
            return []
        group = random.Random(f"{self.seed} session {session}").randrange(self.groups)
        return [{"role": "system", "content": self._words(f"group {group}", self.system_words)}]

    def question(self, session: int, turn: int) -> dict[str, str]:
        """A user message that nobody else sends."""
        return {"role": "user", "content": self._words(f"session {session} turn {turn}", self.user_words)}

    def _words(self, what: str, count: int) -> str:
        rng = random.Random(f"{self.seed} {what}")
        return " ".join(rng.choice(WORDS) for _ in range(count))


def load_workload(path: Path) -> Workload:
    """Read a file. Raises pydantic's ValidationError naming what is wrong."""
    return Workload.model_validate(yaml.safe_load(path.read_text("utf-8")))


def workloads() -> dict[str, Path]:
    """Every load there is, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


Send = Callable[[list[dict[str, str]], str], Awaitable[Sample]]


async def play(
    workload: Workload, send: Send, on_done: Callable[[], object] = lambda: None
) -> tuple[list[Sample], float]:
    """Send every request of a load; (samples in order of completion, wall seconds).

    send: messages and a session id in, what the client saw out; sample.text is the next assistant message.
    """
    samples: list[Sample] = []

    async def converse(session: int) -> Sample:
        messages = workload.opening(session)
        for turn in range(workload.turns):
            messages = [*messages, workload.question(session, turn)]
            sample = await send(messages, f"{workload.name}-{session}")
            samples.append(sample)
            on_done()
            messages.append({"role": "assistant", "content": sample.text})
        return sample

    _, wall_s = await closed_loop(converse, requests=workload.sessions, concurrency=workload.concurrency)
    return samples, wall_s


def bodies(workload: Workload) -> Iterator[dict[str, Any]]:
    """The first request of every session as OpenAI bodies, for loads of one turn."""
    for session in range(workload.sessions):
        messages = [*workload.opening(session), workload.question(session, 0)]
        yield {"messages": messages, "max_tokens": workload.output_tokens}
