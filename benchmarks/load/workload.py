"""A load as a file: conversations with shared beginnings, drawn from a seed, and how they arrive.

The files are in benchmarks/workloads/. Words, not tokens, are counted, because a client does not know the tokenizer.
A load is played with so many conversations at a time (`play`) or at its own arrival times (`play_open`).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.load.client import Sample, closed_loop, open_loop

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


# What a prompt about a program is made of; a token or two each.
CODE = ["def", "return", "for", "in", "range(", "):", "if", "else:", "self.", "=", "+=", "None", "len(", "[0]", "await"]


class Arrival(BaseModel):
    """When conversations begin: gamma-distributed gaps around a mean rate.

    burstiness 1 is a Poisson process, below 1 they come in bursts, above 1 more evenly (vLLM's own meaning of it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_rps: float = Field(gt=0, description="conversations that begin per second, on average")
    burstiness: float = Field(1.0, gt=0)
    think_s: float = Field(0.0, ge=0, description="a user's pause before the next message, mean of an exponential")

    def times(self, count: int, seed: int | str) -> list[float]:
        """Ascending seconds after the start, shape (count,)."""
        rng = random.Random(f"{seed} arrivals")
        at_s, made = 0.0, []
        for _ in range(count):
            at_s += rng.gammavariate(self.burstiness, 1 / (self.rate_rps * self.burstiness))
            made.append(at_s)
        return made


class Workload(BaseModel):
    """See the files for what the fields mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sessions: int = Field(ge=1)
    turns: int = Field(1, ge=1)
    groups: int = Field(0, ge=0, description="distinct system prompts; 0: none")
    system_words: int = Field(0, ge=0)
    user_words: int = Field(ge=1)
    documents: int = Field(0, ge=0, description="texts that questions are about; 0: none")
    document_words: int = Field(0, ge=0)
    words: Literal["prose", "code"] = "prose"
    output_tokens: int = Field(ge=1)
    response_format: dict[str, Any] | None = Field(None, description="OpenAI's, for answers that are data")
    concurrency: int = Field(1, ge=1)
    arrival: Arrival | None = None
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
        """A user message that nobody else sends. The document it is about, if any, comes first and is shared."""
        own = self._words(f"session {session} turn {turn}", self.user_words)
        if not self.documents or turn:
            return {"role": "user", "content": own}
        document = random.Random(f"{self.seed} document of {session}").randrange(self.documents)
        return {
            "role": "user",
            "content": f"{self._words(f'document {document}', self.document_words)}\n\n{own}",
        }

    def extras(self) -> dict[str, Any]:
        """What a body of this load has beyond messages and lengths."""
        return {} if self.response_format is None else {"response_format": self.response_format}

    def _words(self, what: str, count: int) -> str:
        rng = random.Random(f"{self.seed} {what}")
        vocabulary = WORDS if self.words == "prose" else WORDS + CODE
        return " ".join(rng.choice(vocabulary) for _ in range(count))


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
    """Send every request of a load. (samples in order of completion, wall seconds).

    send: messages and a session id in, what the client saw out. sample.text is the next assistant message.
    """
    samples: list[Sample] = []

    async def converse(session: int) -> Sample:
        return await _converse(workload, session, send, samples, on_done)

    _, wall_s = await closed_loop(converse, requests=workload.sessions, concurrency=workload.concurrency)
    return samples, wall_s


async def play_open(
    workload: Workload, send: Send, on_done: Callable[[], object] = lambda: None, seed: int | str = 0
) -> tuple[list[Sample], float]:
    """As `play`, but conversations begin at the load's own times. A later turn follows its answer and a pause."""
    if workload.arrival is None:
        raise ValueError(f"the load {workload.name} says nothing of arrivals; add `arrival:` to its file")
    samples: list[Sample] = []

    async def converse(session: int) -> Sample:
        return await _converse(workload, session, send, samples, on_done)

    times = workload.arrival.times(workload.sessions, f"{workload.seed} {seed}")
    _, wall_s = await open_loop(converse, times)
    return samples, wall_s


async def _converse(
    workload: Workload, session: int, send: Send, samples: list[Sample], on_done: Callable[[], object]
) -> Sample:
    """One conversation. Returns its first sample, which is the one that arrived."""
    pauses = random.Random(f"{workload.seed} pauses of {session}")
    think_s = 0.0 if workload.arrival is None else workload.arrival.think_s
    messages = workload.opening(session)
    first: Sample | None = None
    for turn in range(workload.turns):
        if turn and think_s:
            await asyncio.sleep(pauses.expovariate(1 / think_s))
        messages = [*messages, workload.question(session, turn)]
        sample = await send(messages, f"{workload.name}-{session}")
        first = first or sample
        samples.append(sample)
        on_done()
        messages.append({"role": "assistant", "content": sample.text})
    assert first is not None  # turns is at least 1
    return first


def bodies(workload: Workload) -> Iterator[dict[str, Any]]:
    """The first request of every session as OpenAI bodies, for loads of one turn."""
    for session in range(workload.sessions):
        messages = [*workload.opening(session), workload.question(session, 0)]
        yield {"messages": messages, "max_tokens": workload.output_tokens, **workload.extras()}
