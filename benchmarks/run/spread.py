"""What several rounds of one measurement say together: the median, the smallest and the largest round.

Every figure of a row has its spread beside it under NAME_spread. `benchmarks/run/compare.py` goes by that name.
"""

import statistics
from collections.abc import Mapping, Sequence
from math import comb
from typing import Any

SPREAD = "_spread"


def over_rounds(rounds: Sequence[Mapping[str, float | None]]) -> dict[str, Any]:
    """Of every figure the median over rounds and [smallest, largest]. None where no round has it."""
    result: dict[str, Any] = {"rounds": len(rounds)}
    for name in dict.fromkeys(name for figures in rounds for name in figures):
        values = [value for figures in rounds if (value := figures.get(name)) is not None]
        result[name] = statistics.median(values) if values else None
        result[name + SPREAD] = [min(values), max(values)] if values else None
    return result


def ratios(
    ours: Sequence[Mapping[str, float | None]], theirs: Sequence[Mapping[str, float | None]], name: str
) -> list[float | None]:
    """Ours over theirs in each round: what else the machine did in that round hit both. None: one has no figure."""
    pairs = zip(ours, theirs, strict=True)
    return [None if (a := one.get(name)) is None or not (b := other.get(name)) else a / b for one, other in pairs]


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two [smallest, largest] intervals have no value in common."""
    return one[1] < other[0] or other[1] < one[0]


def chance_apart(rounds: int, other_rounds: int) -> float:
    """How often two equal things lie apart by chance: all rounds of one rank above all of the other, either way."""
    return 2 / comb(rounds + other_rounds, rounds)


def arms_order(arms: Sequence[str], number: int) -> list[str]:
    """Forwards in even rounds, backwards in odd ones, so that no arm always follows the same other one."""
    return list(arms) if number % 2 == 0 else list(reversed(arms))
