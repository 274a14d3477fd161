"""Runs one request per idempotency key. A retry of a finished request is replayed, one of a running request is refused.

Keys belong to their tenant, so nobody reads another tenant's answers by guessing one.
Kept answers are bounded in entries, bytes and time. Running requests are bounded by the gateway's admission.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import Field

from routing.records import Record
from serving.errors import Conflict, InvalidRequest
from serving.request.frame import Frame

HEADER = "Idempotency-Key"
MAX_KEY_CHARS = 255
FRAME_OVERHEAD_BYTES = 200  # about the size of a Frame without its text

Claim = tuple[str, str]  # (tenant, key)


class IdempotencyConfig(Record):
    """How much is kept for retries."""

    ttl_s: float = Field(600.0, gt=0, description="how long a finished answer is replayed")
    max_running_s: float = Field(900.0, gt=0, description="a claim nobody ended is dropped then; above every deadline")
    max_entries: int = Field(4096, ge=0, description="finished answers kept")
    max_bytes: int = Field(64 * 2**20, ge=0, description="their text, about; a longer answer is not kept")


@dataclass(frozen=True, slots=True)
class Replay:
    """A finished request with the same key and body: send these frames again and call nobody."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class _Answer:
    body_hash: str
    frames: tuple[Frame, ...]
    size_bytes: int
    expires: float


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """The right to run a request. Its holder ends it in `finally`. Ending it twice does nothing."""

    store: "IdempotencyStore"
    claim: Claim
    body_hash: str
    expires: float

    def finish(self, frames: Sequence[Frame]) -> None:
        """Keep the served answer for replay."""
        self.store._end(self, tuple(frames))

    def abandon(self) -> None:
        """Keep nothing. The request failed or was cancelled, so a retry runs it again."""
        self.store._end(self, None)


class IdempotencyStore:
    """Keeps what runs and what was answered. It is not thread-safe. One event loop owns it."""

    def __init__(self, config: IdempotencyConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: monotonic seconds."""
        self._config = config
        self._clock = clock
        # Both oldest first, which is also the order in which they expire.
        self._running: OrderedDict[Claim, Token] = OrderedDict()
        self._answers: OrderedDict[Claim, _Answer] = OrderedDict()
        self._bytes = 0

    def begin(self, tenant: str, key: str, body_hash: str) -> Replay | Token:
        """Claim a key for one request.

        body_hash: digest of everything that shapes the answer: path and body.
        Raises Conflict while a request with this key runs, InvalidRequest when the key was used with another body or
        has not 1 to MAX_KEY_CHARS characters.
        """
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise InvalidRequest(f"An idempotency key has 1 to {MAX_KEY_CHARS} characters.", param=HEADER)
        self._expire()
        claim = (tenant, key)
        known = self._running.get(claim) or self._answers.get(claim)
        if known is None:
            token = Token(self, claim, body_hash, self._clock() + self._config.max_running_s)
            self._running[claim] = token
            return token
        if known.body_hash != body_hash:
            raise InvalidRequest("This idempotency key was used with another request; choose a new one.", param=HEADER)
        if isinstance(known, Token):
            raise Conflict("A request with this idempotency key is still running; retry when it is done.", param=HEADER)
        return Replay(known.frames)

    def _end(self, token: Token, frames: tuple[Frame, ...] | None) -> None:
        if self._running.get(token.claim) is not token:
            return
        del self._running[token.claim]
        if frames is None:
            return
        size = sum(FRAME_OVERHEAD_BYTES + len(frame.data or "") + len(frame.text) for frame in frames)
        if size > self._config.max_bytes:
            return
        self._answers[token.claim] = _Answer(token.body_hash, frames, size, self._clock() + self._config.ttl_s)
        self._bytes += size
        while len(self._answers) > self._config.max_entries or self._bytes > self._config.max_bytes:
            self._drop_oldest()

    def _expire(self) -> None:
        now = self._clock()
        while self._running and next(iter(self._running.values())).expires <= now:
            self._running.popitem(last=False)
        while self._answers and next(iter(self._answers.values())).expires <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, answer = self._answers.popitem(last=False)
        self._bytes -= answer.size_bytes
