"""How many replicas a load needs so that few requests wait too long: Erlang's C formula.

Requests wait in one queue for the next free replica. Arrivals are Poisson within a window, and the time a request needs
is exponential. Real engines batch, which shortens waits. Real arrivals come in bursts within a window, which lengthens
them. So the result sizes a fleet but promises no latency.
"""

import math

MAX_REPLICAS = 1_000_000


def erlang_c(replicas: int, load: float) -> float:
    """Probability that a request has to wait. load: replica-seconds of work that arrive per second, >= 0.

    Computed by the recursion of Erlang's B formula, which neither overflows nor loses digits.
    Source: Cooper 1981, Introduction to Queueing Theory, sections 3.2 and 3.3.
    """
    if load <= 0:
        return 0.0
    if load >= replicas:
        return 1.0
    blocked = 1.0
    for n in range(1, replicas + 1):
        blocked = load * blocked / (n + load * blocked)
    return replicas * blocked / (replicas - load * (1 - blocked))


def p_waits_longer(replicas: int, load: float, service_s: float, wait_s: float) -> float:
    """Share of requests that wait longer than wait_s. service_s: mean replica seconds of one request, > 0."""
    if load >= replicas:
        return 1.0
    return erlang_c(replicas, load) * math.exp(-(replicas - load) * wait_s / service_s)


def replicas_for(load: float, service_s: float, wait_s: float, late_ratio: float) -> int:
    """The smallest fleet in which at most late_ratio of the requests wait longer than wait_s. 0 for no load.

    load: replica-seconds of work per second. service_s: mean replica seconds of one request, > 0. late_ratio: 0..1,
    above 0. Raises ValueError for a load that MAX_REPLICAS cannot carry.
    """
    if load <= 0:
        return 0
    if load >= MAX_REPLICAS:
        raise ValueError(f"a load of {load:.0f} replicas: is the traffic or the rate of the engine in the wrong unit?")
    # Above the load the share of late requests falls with every replica: widen, then halve.
    low, width = math.floor(load), 1
    while p_waits_longer(low + width, load, service_s, wait_s) > late_ratio:
        width *= 2
    high = low + width
    low += width // 2
    while high - low > 1:
        middle = (low + high) // 2
        if p_waits_longer(middle, load, service_s, wait_s) > late_ratio:
            low = middle
        else:
            high = middle
    return high
