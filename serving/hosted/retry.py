"""Chooses which provider is asked next, and when: one budget of tries and one deadline for all. No I/O."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from serving.hosted.config import FrontierConfig
from serving.hosted.faults import Remedy


@dataclass(frozen=True, slots=True)
class FailedTry:
    """lane: index of the provider. at: seconds on the clock of `now`. retry_after_s: what the provider asked for."""

    lane: int
    remedy: Remedy
    at: float
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class NextTry:
    """Ask this provider after so many seconds."""

    lane: int
    wait_s: float


def next_try(
    failed: Sequence[FailedTry],
    lanes: Sequence[bool],
    now: float,
    deadline: float,
    config: FrontierConfig,
    jitter: float = 0.0,
) -> NextTry | None:
    """The next try. None when there is none to make.

    lanes: per provider whether it may be asked at all (its breaker, its context). jitter: 0..1, spreads the backoff.

    - A failure that came at once is repeated at the same provider, at most quick_retries times, after Retry-After or
      the backoff.
    - Every other try goes to the provider with the fewest tries so far. The configured order breaks ties.
    - A wait above max_wait_s is accepted only when no other provider is left. A wait past the deadline never is.
    """
    if len(failed) >= config.max_tries or now >= deadline or any(f.remedy is Remedy.STOP for f in failed):
        return None
    tries = Counter(f.lane for f in failed)
    abandoned = {f.lane for f in failed if f.remedy is Remedy.ABANDON}
    waits = {
        lane: max((_ready_at(f, tries[lane], config, jitter) for f in failed if f.lane == lane), default=now) - now
        for lane, usable in enumerate(lanes)
        if usable and lane not in abandoned
    }
    waits = {lane: max(wait_s, 0.0) for lane, wait_s in waits.items()}
    waits = {lane: wait_s for lane, wait_s in waits.items() if now + wait_s < deadline}
    if not waits:
        return None
    last = failed[-1] if failed else None
    if last is not None and last.remedy is Remedy.RETRY and tries[last.lane] <= config.quick_retries:
        wait_s = waits.get(last.lane)
        if wait_s is not None and wait_s <= config.max_wait_s:
            return NextTry(last.lane, wait_s)
    lane = min(waits, key=lambda lane: (waits[lane] > config.max_wait_s, tries[lane], lane))
    return NextTry(lane, waits[lane])


def _ready_at(failed: FailedTry, tries: int, config: FrontierConfig, jitter: float) -> float:
    """When the provider may be asked again: at the time it named, or after a doubling backoff, half of it random."""
    if failed.retry_after_s is not None:
        return failed.at + failed.retry_after_s
    return failed.at + config.backoff_s * 2.0 ** (tries - 1) * (1 + jitter) / 2
