"""Divides the engine's time among the requests that it worked on at once."""

from dataclasses import dataclass


@dataclass(slots=True)
class Ticket:
    """One request's time in an engine. SharedClock.enter makes it."""

    entered: float
    share_s: float | None = None  # settled on leaving


class SharedClock:
    """Splits an engine's busy seconds among the requests that were in it: with n inside, each pays 1/n of the time.

    The sum over requests is the busy time, so nothing is billed twice and nothing is lost. Processor sharing in
    virtual time: `_virtual_s` is what a request that never left would have paid so far, so every event is O(1).
    Not thread-safe: each engine has one clock, used from its event loop.
    `now_s` is time.perf_counter(). A value before the last one counts as the last one.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._virtual_s = 0.0
        self._busy_s = 0.0
        self._last_s: float | None = None

    def enter(self, now_s: float) -> Ticket:
        """A request starts to use the engine."""
        self._advance(now_s)
        self._inside += 1
        return Ticket(self._virtual_s)

    def share_s(self, ticket: Ticket, now_s: float) -> float:
        """Seconds this request has to pay by now. Final once it has left."""
        if ticket.share_s is not None:
            return ticket.share_s
        self._advance(now_s)
        return self._virtual_s - ticket.entered

    def leave(self, ticket: Ticket, now_s: float) -> float:
        """Take the request out, however it ended, and return its share in seconds. A second call changes nothing."""
        if ticket.share_s is None:
            ticket.share_s = self.share_s(ticket, now_s)
            self._inside -= 1
        return ticket.share_s

    def busy_s(self, now_s: float) -> float:
        """Seconds with at least one request inside, since the clock was made. The rest of the uptime was idle."""
        self._advance(now_s)
        return self._busy_s

    def _advance(self, now_s: float) -> None:
        if self._last_s is None or now_s <= self._last_s:
            self._last_s = now_s if self._last_s is None else self._last_s
            return
        elapsed_s = now_s - self._last_s
        self._last_s = now_s
        if self._inside:
            self._busy_s += elapsed_s
            self._virtual_s += elapsed_s / self._inside
