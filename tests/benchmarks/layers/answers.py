"""Rows of made-up answers for the arithmetic of the layers."""

from collections.abc import Callable

from benchmarks.layers.claims import FRONTIER, GATE, PREFIX, REPLICAS, ROUTING, Measured
from benchmarks.layers.row import Answered, make_row
from routing.records import Tier

N = 40
BATCHING = "+ continuous batching"


def one(number: int, **values: object) -> Answered:
    """The frontier's right answer for a tenth of a cent, unless told otherwise."""
    facts: dict[str, object] = {
        "task": f"task-{number}", "tier": Tier.FRONTIER, "quality": 1.0, "done_s": 0.5 * (number + 1), "e2e_s": 2.0,
        "frontier_usd": 0.001, "own_usd": 0.0,
    }  # fmt: skip
    return Answered.model_validate(facts | values)


def by_tier1(number: int, **values: object) -> Answered:
    """Tier 1's right answer for a fiftieth of that."""
    facts: dict[str, object] = {
        "tier": Tier.TIER1, "e2e_s": 0.5, "frontier_usd": 0.0, "own_usd": 2e-5, "own_s": 0.8, "own_input_tokens": 100,
        "drafted": True,
    }  # fmt: skip
    return one(number, **(facts | values))


def measured(*rows: tuple[str, Callable[[int], Answered]]) -> Measured:
    """Rows of N requests each, over 20 seconds, engines rented for 0.18 dollars an hour."""
    requests = {name: tuple(make(number) for number in range(N)) for name, make in rows}
    return Measured(rows=tuple(make_row(name, mine, 20.0, 0.18) for name, mine in requests.items()), requests=requests)


def ladder() -> Measured:
    """Half go to tier 1, then cached at half of its price, then batched at a quarter of that."""

    def routed(own: float, hits: int) -> Callable[[int], Answered]:
        return lambda n: (
            by_tier1(n, own_usd=own, own_cached_tokens=hits) if n % 2 else one(n, own_usd=own, own_input_tokens=100)
        )

    return measured(
        (FRONTIER, one),
        (ROUTING, routed(4e-5, 0)),
        (GATE, routed(4e-5, 0)),
        (PREFIX, routed(2e-5, 50)),
        (REPLICAS, routed(2e-5, 50)),
        (BATCHING, routed(5e-6, 50)),
    )
