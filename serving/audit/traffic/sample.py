"""A uniform sample of the requests, for work too slow for each: the category by the product's rules, the text."""

import math
import random
from dataclasses import dataclass, field

import msgspec

from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.records import Api
from routing.text.request_body import edges, last_user_text
from serving.audit.formats.call import Call

SAMPLE_SIZE = 4_000  # a share of a half is known to 1.5 points. 26,000 of a million requests are read


@dataclass(frozen=True, slots=True)
class Sampled:
    """One request of the sample. category None: no text in the log. prompt: its last user message."""

    category: str | None
    prompt: str
    usd: float | None
    input_tokens: int
    output_tokens: int


@dataclass(slots=True)
class Reservoir:
    """Every request has the same chance to be in the sample. Exact for logs no longer than the sample.

    Skips ahead to the next one it keeps. Source: Li 1994, Reservoir-Sampling Algorithms, algorithm L.
    """

    size: int = SAMPLE_SIZE
    seed: int = 0
    seen: int = 0
    kept: list[Sampled] = field(default_factory=list)
    _next: int = 0
    _w: float = 1.0
    _random: random.Random = field(init=False)
    _policy: PolicyConfig = field(default_factory=PolicyConfig)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - draws a sample

    def add(self, call: Call, usd: float | None) -> None:
        """Offer a request."""
        self.seen += 1
        if self.seen <= self.size:
            self.kept.append(self._look(call, usd))
            if self.seen == self.size:
                self._skip()
        elif self.seen == self._next:
            self.kept[self._random.randrange(self.size)] = self._look(call, usd)
            self._skip()

    def wants_next(self) -> bool:
        """Whether the next request would be read. The caller need not price the others."""
        return self.seen < self.size or self.seen + 1 == self._next

    def skip(self) -> None:
        """Count a request that `wants_next` did not ask for."""
        self.seen += 1

    def _skip(self) -> None:
        self._w *= math.exp(math.log(1 - self._random.random()) / self.size)
        gap = math.log(1 - self._random.random()) / math.log1p(-self._w) if self._w < 1 else 0
        self._next = self.seen + math.floor(gap) + 1

    def _look(self, call: Call, usd: float | None) -> Sampled:
        category, prompt = call.category, ""
        if call.request is not None:
            try:
                body = call.request.body()
            except msgspec.DecodeError:
                body = {}
            api = Api.COMPLETIONS if "prompt" in body else Api.CHAT
            # The Responses API's input may be one string.
            if isinstance(body.get("messages"), str):
                body["messages"] = [{"role": "user", "content": body["messages"]}]
            prompt = edges(last_user_text(body, api))
            if category is None:
                category = request_features(body, api, call.input_tokens, self._policy).category
        return Sampled(category, prompt, usd, call.input_tokens, call.output_tokens)
