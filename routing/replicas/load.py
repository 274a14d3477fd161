"""Estimates the load of replicas while the gateway runs: prefill speed, busy time, share of the traffic.

The estimators have no clock. Every observation brings its time, in seconds of one monotonic clock. A gateway keeps one
`ReplicaLoad` per replica. It records its own bookings there and, as they arrive, those of other gateway processes.
"""

import math
from collections import deque
from dataclasses import dataclass

from routing.replicas.rank import ReplicaState

# How long a replica's share of the traffic and its utilization are remembered. On the conversation trace a cached block
# lives about 115 s (4M tokens at 35k new tokens/s). A memory of that length balances what is cached, not only what
# runs. 30 s costs 0.4 points of the pooled hits at 8 replicas (benchmarks/LOG.md, 2026-11-21).
LOAD_HALF_LIFE_S = 120.0
# Prefill speed moves with the batch, not with the minute: about the last 200 requests count.
RATE_HALF_LIFE_REQUESTS = 140
# A replica's own slowdown is believed after some dozens of requests. Replicas that share cores differ by chance, and
# prefixes would move each time. Shorter half-lives cost hits in every closed loop simulated (benchmarks/LOG.md).
SLOWDOWN_HALF_LIFE_REQUESTS = 70
SLOWDOWN_PRIOR_REQUESTS = 20.0
# No single request counts as slower or faster than this: an engine's first prompts take seconds.
MAX_SLOWDOWN = 8.0
# Until measured: one imagined request of this speed and length. Wrong by far on most hardware, and soon outweighed.
PRIOR_PREFILL_TOKENS_PER_S = 10_000.0
PRIOR_S = 0.5
MAX_UTILIZATION = 0.95
MIN_EVIDENCE_S = 0.001
UNSEEN_HALF_LIFE_DECISIONS = 35.0
ARRIVALS_HALF_LIFE_REQUESTS = 140.0
AT_ONCE_RATIO = 0.1
# A booking of another process that takes longer than this to arrive is a fault of the transport, not normal delay.
BLIND_WINDOW_S = 1.0


class DecayingSum:
    """A sum whose addends lose half their weight every half_life_s."""

    __slots__ = ("_at", "_half_life_s", "_sum")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._sum = 0.0
        self._at = -math.inf

    def add(self, amount: float, now: float) -> None:
        """Count amount. A time before the last one seen counts as that one."""
        self._sum = self.value(now) + amount
        self._at = max(self._at, now)

    def value(self, now: float) -> float:
        """The sum as of now."""
        if self._sum == 0.0 or now <= self._at:
            return self._sum
        return self._sum * math.exp2((self._at - now) / self._half_life_s)


class PrefillRate:
    """Seconds of prefill as overhead + tokens / rate: least squares over exponentially weighted requests.

    Half-life RATE_HALF_LIFE_REQUESTS requests. Falls back to the plain ratio while the requests are too alike to tell
    the overhead from the rate, or when noise makes either negative.
    """

    __slots__ = ("_n", "_prior_tokens", "_prior_weight", "_x", "_xx", "_xy", "_y", "measured")

    _keep = 0.5 ** (1 / RATE_HALF_LIFE_REQUESTS)

    def __init__(self, prior_tokens_per_s: float = PRIOR_PREFILL_TOKENS_PER_S) -> None:
        self.measured = False
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._prior_tokens = prior_tokens_per_s * PRIOR_S  # one imagined request. Each real one halves its weight
        self._prior_weight = 1.0

    def observe(self, tokens: int, seconds: float) -> None:
        """One prefill of `tokens` uncached tokens took `seconds`. Useless pairs (<= 0) are ignored."""
        if tokens <= 0 or seconds <= 0:
            return
        self.measured = True
        self._prior_weight /= 2
        keep = self._keep
        self._n = self._n * keep + 1
        self._x = self._x * keep + tokens
        self._y = self._y * keep + seconds
        self._xx = self._xx * keep + tokens * tokens
        self._xy = self._xy * keep + tokens * seconds

    def fit(self) -> tuple[float, float]:
        """(overhead in seconds >= 0, rate in tokens per second > 0)."""
        weight, tokens = self._prior_weight, self._prior_tokens
        n, x, y = self._n + weight, self._x + weight * tokens, self._y + weight * PRIOR_S
        xx, xy = self._xx + weight * tokens * tokens, self._xy + weight * tokens * PRIOR_S
        spread = n * xx - x * x
        if spread > 0.01 * x * x:
            slope = (n * xy - x * y) / spread
            overhead = (y - slope * x) / n
            if slope > 0 and overhead >= 0:
                return overhead, 1 / slope
        return 0.0, x / y

    @property
    def tokens_per_s(self) -> float:
        """The rate alone."""
        return self.fit()[1]


class ReplicaSpeed:
    """One replica's prefill speed: its tier's, divided by how much longer this replica takes for the same work.

    The replicas of a tier are alike, so the cost of a token and of a request is learned from all of them. Measured
    alone, a replica that gets cached prompts would seem slow, because they take little but overhead. One that gets new
    prompts would seem fast, and the tier would spread every prefix because of it. The slowdown is a geometric mean,
    because the slowest few requests dominate a ratio of sums.
    """

    __slots__ = ("_log_ratios", "_requests", "tier")

    _keep = 0.5 ** (1 / SLOWDOWN_HALF_LIFE_REQUESTS)

    def __init__(self, tier: PrefillRate) -> None:
        self.tier = tier
        self._log_ratios = self._requests = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """As PrefillRate.observe, for the tier and for this replica's place in it."""
        if tokens <= 0 or seconds <= 0:
            return
        if self.tier.measured:  # or there is nothing yet to be slower than
            overhead_s, tokens_per_s = self.tier.fit()
            ratio = seconds / (overhead_s + tokens / tokens_per_s)
            log_ratio = math.log(min(MAX_SLOWDOWN, max(1 / MAX_SLOWDOWN, ratio)))
            self._log_ratios = self._log_ratios * self._keep + log_ratio
            self._requests = self._requests * self._keep + 1
        self.tier.observe(tokens, seconds)

    @property
    def slowdown(self) -> float:
        """Seconds taken ÷ seconds expected of any replica of the tier, > 0. 1 for a new one."""
        return math.exp(self._log_ratios / (self._requests + SLOWDOWN_PRIOR_REQUESTS))

    @property
    def tokens_per_s(self) -> float:
        """Uncached tokens per second, > 0."""
        return self.tier.tokens_per_s / self.slowdown


@dataclass(frozen=True, slots=True)
class _Booking:
    uncached_tokens: int
    booked_at: float


class ReplicaLoad:
    """One replica's queue, speed and share of the traffic, from bookings and first tokens.

    The queue is modelled as one prefill after the other. It is re-anchored at every first token, so that errors of the
    rate do not add up, and never runs ahead of a request that is still waiting by more than that request's own work.
    """

    def __init__(self, tier: PrefillRate) -> None:
        """tier: one for all replicas of a tier."""
        self.speed = ReplicaSpeed(tier)
        self._waiting: dict[str, _Booking] = {}
        self._running: set[str] = set()
        self._waiting_tokens = 0
        self._ready_at = -math.inf
        self._last_first_token_at = -math.inf
        self._since: float | None = None
        self._busy_s = DecayingSum(LOAD_HALF_LIFE_S)
        self._tokens = DecayingSum(LOAD_HALF_LIFE_S)
        self._requests = DecayingSum(LOAD_HALF_LIFE_S)

    @property
    def waiting(self) -> int:
        """Requests booked whose first token has not come."""
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Requests booked and not released."""
        return len(self._waiting) + len(self._running)

    def book(self, request_id: str, input_tokens: int, uncached_tokens: int, now: float) -> float:
        """A request goes there. Returns its expected seconds of prefill. 0 when it is booked already (idempotent)."""
        if request_id in self._waiting or request_id in self._running:
            return 0.0
        if self._since is None:
            self._since = now
        work_s = uncached_tokens / self.speed.tokens_per_s
        self._waiting[request_id] = _Booking(uncached_tokens, now)
        self._waiting_tokens += uncached_tokens
        self._ready_at = max(self._ready_at, now) + work_s
        self._tokens.add(input_tokens, now)
        self._requests.add(1, now)
        return work_s

    def prefilled(self, request_id: str, now: float) -> None:
        """Its first token came. Unknown or repeated ids are ignored."""
        booking = self._waiting.pop(request_id, None)
        if booking is None:
            return
        self._running.add(request_id)
        self._waiting_tokens -= booking.uncached_tokens
        took_s = now - max(booking.booked_at, self._last_first_token_at)
        self._last_first_token_at = now
        self.speed.observe(booking.uncached_tokens, took_s)
        self._busy_s.add(max(0.0, took_s), now)
        self._ready_at = now + self._waiting_tokens / self.speed.tokens_per_s

    def release(self, request_id: str, now: float) -> None:
        """It completed, was cancelled, or died with its replica. Unknown or repeated ids are ignored."""
        self._running.discard(request_id)
        booking = self._waiting.pop(request_id, None)
        if booking is not None:
            self._waiting_tokens -= booking.uncached_tokens
            self._ready_at = max(now, self._ready_at - booking.uncached_tokens / self.speed.tokens_per_s)

    def wait_s(self, now: float) -> float:
        """Seconds until a prefill that is sent now would start."""
        return max(0.0, self._ready_at - now)

    def utilization(self, now: float) -> float:
        """Share of the recent time spent in prefill, 0..MAX_UTILIZATION."""
        age_s = 0.0 if self._since is None else now - self._since
        if age_s < MIN_EVIDENCE_S:
            return 0.0
        # What the busy sum would be had it been busy all along, not what an infinitely old one would be.
        remembered_s = -LOAD_HALF_LIFE_S / math.log(2) * math.expm1(-age_s * math.log(2) / LOAD_HALF_LIFE_S)
        return min(MAX_UTILIZATION, self._busy_s.value(now) / remembered_s)

    def state(
        self,
        replica_id: str,
        now: float,
        cached_tokens: int,
        resident_blocks: int,
        host_tokens: int = 0,
        healthy: bool = True,
        host_load_tokens_per_s: float | None = None,
    ) -> ReplicaState:
        """What `rank_replicas` needs to know of this replica for one prompt, as of now."""
        return ReplicaState(
            replica_id=replica_id,
            wait_s=self.wait_s(now),
            prefill_tokens_per_s=self.speed.tokens_per_s if self.speed.tier.measured else None,
            cached_tokens=cached_tokens,
            host_tokens=host_tokens,
            host_load_tokens_per_s=host_load_tokens_per_s,
            utilization=self.utilization(now),
            recent_tokens=self._tokens.value(now),
            recent_requests=self._requests.value(now),
            resident_blocks=resident_blocks,
            healthy=healthy,
        )


class UnseenWork:
    """How much work other gateway processes have typically booked that this one cannot know of yet.

    It is measured afterwards. When a booking arrives from elsewhere and was decided before one of ours, our decision
    could not see it. Mean over decisions, half-life UNSEEN_HALF_LIFE_DECISIONS.
    """

    _weight = 1 - 0.5 ** (1 / UNSEEN_HALF_LIFE_DECISIONS)

    def __init__(self) -> None:
        self.work_s = 0.0
        self._open: deque[list[float]] = deque()  # [time of our decision, seconds of work it did not see]

    def decided(self, now: float) -> None:
        """This process decided a request."""
        while self._open and self._open[0][0] < now - BLIND_WINDOW_S:
            self.work_s += (self._open.popleft()[1] - self.work_s) * self._weight
        self._open.append([now, 0.0])

    def booked_elsewhere(self, decided_at: float, work_s: float) -> None:
        """A booking of another process has just arrived. It was decided there at decided_at."""
        for decision in reversed(self._open):
            if decision[0] < decided_at:
                break
            decision[1] += work_s


class Arrivals:
    """How often one request is followed by the next at once: before a tenth of a mean prefill has passed.

    Mean over requests, half-life ARRIVALS_HALF_LIFE_REQUESTS.
    """

    _weight = 1 - 0.5 ** (1 / ARRIVALS_HALF_LIFE_REQUESTS)

    def __init__(self) -> None:
        self.followed_ratio = 0.0
        self._last_at: float | None = None
        self._mean_work_s = 0.0

    def observe(self, at: float, work_s: float) -> None:
        """A request that needs work_s seconds of prefill was decided at `at`, here or elsewhere."""
        if self._last_at is None:
            self._mean_work_s = work_s
        else:
            followed = abs(at - self._last_at) < AT_ONCE_RATIO * self._mean_work_s
            self.followed_ratio += (followed - self.followed_ratio) * self._weight
            self._mean_work_s += (work_s - self._mean_work_s) * self._weight
        self._last_at = at
