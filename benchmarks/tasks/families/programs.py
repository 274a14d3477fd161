"""Code: what a line of Python prints, and small functions that are run on cases they have not seen."""

import random
from collections.abc import Callable
from typing import Any

from benchmarks.tasks.task import Exact, Program, Question


def output(rng: random.Random, level: int) -> Question:
    """1: one expression on a list or a text."""
    xs = [rng.randint(1, 20) for _ in range(rng.randint(3, 5))]
    word = rng.choice(("garden", "silver", "window", "market", "pencil", "basket", "rabbit", "tunnel", "yellow"))
    k = rng.randint(2, 9)
    expressions: tuple[tuple[str, Any], ...] = (
        (f"max({xs})", max(xs)),
        (f"{xs}[-1] * 2", xs[-1] * 2),
        (f"len({xs})", len(xs)),
        (f'"{word}".upper() + "{k}"', word.upper() + str(k)),
        (f"{xs}[1:3]", xs[1:3]),
        (f"sorted({xs})", sorted(xs)),
        (f"{xs[0] + 20} % {k}", (xs[0] + 20) % k),
        (f'"{word}"[:3]', word[:3]),
    )
    code, value = rng.choice(expressions)
    return Question(
        f"What does this Python code print? Answer with the output only.\n\n```python\nprint({code})\n```",
        Exact(answers=(str(value),)),
        max_tokens=24,
    )


_Filter = tuple[str, str, Callable[[int, int], bool]]
_Map = tuple[str, str, Callable[[int, int], int]]
# In words, in Python, as a function: k and j are filled in.
_FILTERS: tuple[_Filter, ...] = (
    ("the even numbers", "x % 2 == 0", lambda x, k: x % 2 == 0),
    ("the odd numbers", "x % 2 == 1", lambda x, k: x % 2 == 1),
    ("the numbers greater than {k}", "x > {k}", lambda x, k: x > k),
    ("the numbers smaller than {k}", "x < {k}", lambda x, k: x < k),
    ("the numbers divisible by {k}", "x % {k} == 0", lambda x, k: x % k == 0),
    ("the numbers not divisible by {k}", "x % {k} != 0", lambda x, k: x % k != 0),
)
_MAPS: tuple[_Map, ...] = (
    ("the squares of {them}", "x * x", lambda x, k: x * x),
    ("{them} increased by {k}", "x + {k}", lambda x, k: x + k),
    ("{them} multiplied by {k}", "x * {k}", lambda x, k: x * k),
    ("{them}", "x", lambda x, k: x),
)
_ENDS: tuple[tuple[str, str, Callable[[list[int]], Any]], ...] = (
    ("a list of {what}, in their order", "[{code}]", lambda xs: xs),
    ("the sum of {what}", "sum({code})", sum),
    ("a list of {what}, largest first", "sorted(({code}), reverse=True)", lambda xs: sorted(xs, reverse=True)),
)


def function(rng: random.Random, level: int) -> Question:
    """1: filter a list and change each. 2: then gather, too."""
    k, j = rng.randint(2, 9), rng.randint(2, 9)
    which, kept, keeps = rng.choice(_FILTERS)
    changed, made, change = rng.choice(_MAPS)
    gathered, wrapped, gather = _ENDS[0] if level == 1 else rng.choice(_ENDS[1:])
    what = changed.format(them=which.format(k=k), k=j)
    code = f"{made.format(k=j)} for x in xs if {kept.format(k=k)}"
    cases = []
    for _ in range(4):
        xs = [rng.randint(0, 30) for _ in range(rng.randint(4, 9))]
        cases.append(([xs], gather([change(x, j) for x in xs if keeps(x, k)])))
    return Question(
        f"Write a Python function f(xs) that takes a list of whole numbers and returns {gathered.format(what=what)}."
        " Answer with the code only, without comments.",
        Program(function="f", cases=tuple(cases), answer=f"def f(xs):\n    return {wrapped.format(code=code)}"),
        max_tokens=72,
    )
