"""Arithmetic, word problems, units: one number is the answer."""

import random

from benchmarks.tasks.task import Number, Question

_ONLY = "Answer with the number only."

# (from, to, factor): a whole number of `from` is factor times as many `to`.
_UNITS = (
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("centimetres", "millimetres", 10),
    ("kilograms", "grams", 1000), ("tonnes", "kilograms", 1000), ("litres", "millilitres", 1000),
    ("litres", "centilitres", 100), ("kilowatts", "watts", 1000), ("dollars", "cents", 100), ("decades", "years", 10),
    ("centuries", "years", 100), ("hours", "minutes", 60), ("minutes", "seconds", 60), ("days", "hours", 24),
    ("weeks", "days", 7), ("years", "months", 12), ("dozens", "pieces", 12),
)  # fmt: skip
_THINGS = ("apples", "pens", "tickets", "bottles", "chairs", "books", "eggs", "tiles", "candles", "stamps", "bricks")
_NAMES = ("Mira", "Tom", "Ines", "Paul", "Vera", "Otto", "Lena", "Karl", "Nora", "Emil", "Rosa", "Finn")
_HOLDERS = ("boxes", "bags", "crates", "baskets", "shelves", "trays", "rows", "packets")


def arithmetic(rng: random.Random, level: int) -> Question:
    """1: sum or difference of two-digit numbers. 2: of three-digit ones. 3: one digit times two. 4: two times two."""
    if level <= 2:
        low, high = (11, 99) if level == 1 else (101, 999)
        a, b = rng.randint(low, high), rng.randint(low, high)
        a, b = max(a, b), min(a, b)
        plus = rng.random() < 0.5
        text, value = (f"{a} + {b}", a + b) if plus else (f"{a} - {b}", a - b)
    else:
        a, b = rng.randint(12, 99), rng.randint(3, 9) if level == 3 else rng.randint(12, 99)
        text, value = f"{a} * {b}", a * b
    return Question(f"Compute the result. {_ONLY}\n\n{text}", Number(value=value), max_tokens=12)


def word_problem(rng: random.Random, level: int) -> Question:
    """1: one step, whole numbers throughout."""
    thing, holder = rng.choice(_THINGS), rng.choice(_HOLDERS)
    name, other = rng.sample(_NAMES, 2)
    a, b, c = rng.randint(3, 12), rng.randint(4, 25), rng.randint(2, 9)
    text, value = rng.choice(
        (
            (f"There are {b} {thing} in each of {a} {holder}. How many {thing} are there in all?", a * b),
            (
                f"{name} has {b + c} {thing} and gives {c} of them to {other}. How many {thing} does {name} have left?",
                b,
            ),
            (f"{name} shares {a * c} {thing} equally among {a} friends. How many {thing} does each friend get?", c),
            (f"{name} has {b} {thing}, {other} has {a} more than {name}. How many {thing} does {other} have?", a + b),
        )
    )
    return Question(f"Solve the problem. {_ONLY}\n\n{text}", Number(value=value), max_tokens=12)


def unit(rng: random.Random, level: int) -> Question:
    """1: to the smaller unit, small numbers."""
    large, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 30)
    return Question(f"{_ONLY}\n\nConvert {n} {large} to {small}.", Number(value=n * factor), max_tokens=12)
