"""Leaves a failing provider alone for a while (a circuit breaker), then lets one request test whether it is back."""

import time
from collections.abc import Callable
from enum import StrEnum

from serving.hosted.config import BreakerConfig


class BreakerState(StrEnum):
    """closed: calls pass. open: none does. half_open: one probe is allowed or under way."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Permit:
    """Permission for one call. Report its end once. A permit released unreported says nothing about the provider."""

    def __init__(self, breaker: "Breaker", epoch: int) -> None:
        self._breaker, self._epoch = breaker, epoch
        self._reported = False

    def succeeded(self) -> None:
        """The provider answered."""
        self._report(True)

    def failed(self) -> None:
        """The provider failed through its own fault."""
        self._report(False)

    def release(self) -> None:
        """The call is over. Does nothing when its end was reported."""
        self._report(None)

    def _report(self, ok: bool | None) -> None:
        if not self._reported:
            self._reported = True
            self._breaker.settle(self._epoch, ok)


class Breaker:
    """Opens after consecutive failures. Results of calls that began before the last change of state are ignored.

    Without that rule a slow success from before the outage would close an open breaker. A burst of failures from
    before the recovery would open a closed one.
    """

    def __init__(
        self,
        config: BreakerConfig,
        clock: Callable[[], float] = time.perf_counter,
        on_change: Callable[[BreakerState], None] = lambda _: None,
    ) -> None:
        self._config, self._clock, self._on_change = config, clock, on_change
        self._state = BreakerState.CLOSED
        self._epoch = 0
        self._failures = 0
        self._opened_at = 0.0
        self._probing = False

    @property
    def state(self) -> BreakerState:
        """The state now. An open breaker that has rested long enough is half open."""
        if self._state is BreakerState.OPEN and self.rest_s == 0:
            return BreakerState.HALF_OPEN
        return self._state

    @property
    def rest_s(self) -> float:
        """Seconds until a probe is allowed. 0 when calls may be tried."""
        if self._state is not BreakerState.OPEN:
            return 0.0
        return max(self._opened_at + self._config.open_s - self._clock(), 0.0)

    def allows(self) -> bool:
        """Whether `acquire` would give a permit now."""
        state = self.state
        return state is BreakerState.CLOSED or (state is BreakerState.HALF_OPEN and not self._probing)

    def acquire(self) -> Permit | None:
        """A permit for one call. None while the provider is left alone."""
        if not self.allows():
            return None
        if self.state is BreakerState.HALF_OPEN:
            if self._state is BreakerState.OPEN:
                self._change(BreakerState.HALF_OPEN)
            self._probing = True
        return Permit(self, self._epoch)

    def settle(self, epoch: int, ok: bool | None) -> None:
        """Take the result of a call. ok: None when it says nothing about the provider."""
        if epoch != self._epoch:
            return
        self._probing = False
        if ok is None:
            return
        if ok:
            self._failures = 0
            if self._state is BreakerState.HALF_OPEN:
                self._change(BreakerState.CLOSED)
            return
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN or self._failures >= self._config.failures_to_open:
            self._opened_at = self._clock()
            self._change(BreakerState.OPEN)

    def _change(self, state: BreakerState) -> None:
        self._state = state
        self._epoch += 1
        self._failures = 0
        self._probing = False
        self._on_change(state)
