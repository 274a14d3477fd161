"""Collects what happens to one request, and settles it into one frozen record for the ledger.

Every room writes what it learns of a request into its trace. Attempts are booked with a context manager that
settles them in `finally`, so a cancelled or failed attempt is a row like any other.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from routing.cost.attempt import CostConfig, attempt_cost, baseline_cost
from routing.records import (
    Attempt,
    AttemptKind,
    AttemptOutcome,
    Decision,
    ReplicaChoice,
    RequestOutcome,
    RequestRecord,
    Tier,
    Usage,
    Verdict,
)
from serving.errors import StackError
from serving.request.call import Call
from serving.request.frame import Frame, RouterScore

METADATA_VERSION = "1"
SELF_PROVIDER = "self"


@dataclass(slots=True)
class Booking:
    """An attempt in progress. The code that makes the call fills it, and `RequestTrace.attempt` settles it."""

    kind: AttemptKind
    tier: Tier
    provider: str
    model: str
    try_number: int
    started: float
    outcome: AttemptOutcome | None = None
    error: str | None = None
    usage: Usage | None = None
    first_token: float | None = None
    engine_s: float | None = None
    replica_id: str | None = None
    ended: float | None = None
    output_tokens_seen: int = 0
    replica_choice: ReplicaChoice | None = None
    asked_model: str = field(init=False)  # `model` becomes the name that the answer gives

    def __post_init__(self) -> None:
        self.asked_model = self.model

    def see(self, frame: Frame) -> None:
        """Take from a frame what the cost is computed from."""
        if self.first_token is None and (frame.text or frame.n_tokens or frame.tool_calls):
            self.first_token = time.perf_counter()
        self.output_tokens_seen += frame.n_tokens
        self.usage = frame.usage or self.usage
        self.engine_s = frame.engine_s if frame.engine_s is not None else self.engine_s
        self.replica_id = frame.replica_id or self.replica_id
        self.model = frame.model or self.model
        self.replica_choice = frame.replica_choice or self.replica_choice

    def settle_score(self, score: RouterScore) -> None:
        """Take the usage of a router score. It has one token, so that token is its first."""
        self.first_token = time.perf_counter()
        self.usage, self.engine_s = score.usage, score.engine_s
        self.replica_id, self.model = score.replica_id, score.model


@dataclass(slots=True)
class RequestTrace:
    """Everything that will be known of one request. Times are time.perf_counter() values until settled."""

    call: Call
    config_hash: str
    cost: CostConfig
    started: float = field(default_factory=time.perf_counter)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="microseconds"))
    decision: Decision | None = None
    verdict: Verdict | None = None
    served: Booking | None = None
    held_since: float | None = None
    released: float | None = None
    degraded: bool = False
    rejected_text: str | None = None  # of a complete draft that the gate rejected, for the sampler and in no ledger row
    outcome: RequestOutcome | None = None
    status: int = 200
    error: str | None = None
    bookings: list[Booking] = field(default_factory=list)
    settled: RequestRecord | None = None

    @contextmanager
    def attempt(
        self, kind: AttemptKind, tier: Tier, model: str, provider: str = SELF_PROVIDER, try_number: int = 1
    ) -> Iterator[Booking]:
        """Book one call of one model. It is settled however the block ends.

        A StackError gives its code. A cancellation or a closed generator gives CANCELLED, unless the block set another
        outcome. An answer that was cut short is billed for the tokens that were seen, marked estimated. When we close
        the connection to a provider before its first token, the prompt is billed, because the provider had read it.
        """
        booking = Booking(kind, tier, provider, model, try_number, time.perf_counter())
        self.bookings.append(booking)
        try:
            yield booking
        except BaseException as error:
            if booking.outcome is None:
                booking.outcome = AttemptOutcome.FAILED if isinstance(error, Exception) else AttemptOutcome.CANCELLED
            if booking.error is None and isinstance(error, Exception):
                booking.error = error.code if isinstance(error, StackError) else type(error).__name__
            raise
        finally:
            booking.ended = time.perf_counter()
            cut_short = booking.outcome in (AttemptOutcome.CANCELLED, AttemptOutcome.ABORTED)
            if booking.usage is None and (booking.output_tokens_seen or (cut_short and provider != SELF_PROVIDER)):
                booking.usage = Usage(
                    input_tokens=self.call.features.input_tokens,
                    output_tokens=booking.output_tokens_seen,
                    estimated=True,
                )

    def release(self, frame: Frame) -> Frame:
        """Note that this frame leaves for the client. The first one ends the hold."""
        if self.released is None:
            self.released = time.perf_counter()
        return frame

    def take_back(self) -> None:
        """Forget what was released, because it never reaches the client."""
        self.released = self.served = None

    def booking(self, kind: AttemptKind) -> Booking | None:
        """The latest attempt of a kind, None when there was none."""
        return next((b for b in reversed(self.bookings) if b.kind is kind), None)

    def has_served(self, tier: Tier) -> bool:
        """Whether an answer of this tier is on its way to the client."""
        return self.served is not None and self.served.tier is tier

    def fail(self, error: BaseException) -> None:
        """Note how the request ended for the client when it did not end well."""
        if isinstance(error, StackError):
            self.outcome, self.status, self.error = RequestOutcome.ERROR, error.http_status, error.code
        elif isinstance(error, Exception):
            self.outcome, self.status, self.error = RequestOutcome.ERROR, 500, type(error).__name__
        else:
            self.outcome, self.status = RequestOutcome.CANCELLED, 499
        if self.released is not None and self.outcome is RequestOutcome.ERROR:
            self.outcome = RequestOutcome.BROKEN

    def _attempt(self, booking: Booking) -> Attempt:
        ended = booking.ended if booking.ended is not None else time.perf_counter()
        outcome = booking.outcome or AttemptOutcome.USED
        cost_usd, source = attempt_cost(
            booking.tier,
            booking.provider,
            booking.model,
            booking.usage,
            booking.engine_s,
            self.cost,
            outcome=outcome,
            asked_model=booking.asked_model,
        )
        return Attempt(
            kind=booking.kind,
            tier=booking.tier,
            provider=booking.provider,
            model=booking.model,
            try_number=booking.try_number,
            outcome=outcome,
            error=booking.error,
            usage=booking.usage,
            started_s=booking.started - self.started,
            ttft_s=None if booking.first_token is None else booking.first_token - booking.started,
            duration_s=ended - booking.started,
            engine_s=booking.engine_s,
            replica_id=booking.replica_id,
            replica_choice=booking.replica_choice,
            cost_usd=cost_usd,
            price_source=source,
        )

    def _warm_tokens(self) -> int:
        """The largest number of cached prompt tokens of any attempt at the answer."""
        answers = (AttemptKind.DRAFT, AttemptKind.FRONTIER)
        return max((b.usage.cached_tokens or 0 for b in self.bookings if b.kind in answers and b.usage), default=0)

    @property
    def held_s(self) -> float | None:
        """Seconds between the draft's first held token and its release or loss. None when nothing was held."""
        if self.held_since is None:
            return None
        return (self.released or time.perf_counter()) - self.held_since

    def settle(self) -> RequestRecord:
        """The record of a request that has ended, kept for its metadata."""
        self.settled = self.record()
        return self.settled

    def record(self) -> RequestRecord:
        """The settled, frozen row with all its attempts."""
        attempts = tuple(self._attempt(b) for b in self.bookings)
        known = [a.cost_usd for a in attempts]
        served = self.served
        return RequestRecord(
            request_id=self.call.request_id,
            at=self.at,
            tenant=self.call.tenant,
            api=self.call.api,
            requested_model=self.call.model,
            served_tier=served.tier if served else None,
            served_model=served.model if served else None,
            stream=self.call.stream,
            outcome=self.outcome or RequestOutcome.OK,
            status=self.status,
            error=self.error,
            features=self.call.features,
            decision=self.decision,
            verdict=self.verdict,
            held_s=self.held_s,
            ttft_s=None if self.released is None else self.released - self.started,
            duration_s=time.perf_counter() - self.started,
            degraded=self.degraded,
            cost_usd=None if None in known else sum(c for c in known if c is not None),
            baseline_cost_usd=baseline_cost(served.usage if served else None, self.cost, self._warm_tokens()),
            config_hash=self.config_hash,
            session_id=self.call.session_id,
            attempts=attempts,
        )

    def metadata(self) -> dict[str, Any]:
        """The `tierwise` object of a body or last chunk. It has the same facts as the ledger row."""
        row = self.settled or self.record()
        return {
            "version": METADATA_VERSION,
            "request_id": row.request_id,
            "tier": row.served_tier,
            "category": row.features.category if row.features else None,
            "decision": row.decision.reason if row.decision else None,
            "p_tier1_ok": row.decision.p_tier1_ok if row.decision else None,
            "threshold": row.decision.threshold if row.decision else None,
            "verdict": None
            if row.verdict is None
            else {"accepted": row.verdict.accepted, "reasons": list(row.verdict.reasons)},
            "held_ms": None if row.held_s is None else round(row.held_s * 1000, 1),
            "degraded": row.degraded,
            "attempts": [
                {"kind": a.kind, "model": a.model, "outcome": a.outcome, "cost_usd": a.cost_usd} | _replica(a)
                for a in row.attempts
            ],
            "cost_usd": row.cost_usd,
            "baseline_cost_usd": row.baseline_cost_usd,
            "config_hash": row.config_hash,
        }


def _replica(attempt: Attempt) -> dict[str, Any]:
    """Which replica answered and how it was chosen, where there was a choice."""
    choice = attempt.replica_choice
    return {} if choice is None else {"replica": {"id": attempt.replica_id, **choice.model_dump(mode="json")}}
