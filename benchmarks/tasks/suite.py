"""The suite: which families at which levels, and four splits that share no question.

A split's questions depend on its name and the seed alone. Each is drawn without the questions of those before it in
DRAW_ORDER, so that growing one split never moves a question into another that was drawn earlier.
"""

import random
from collections.abc import Iterator
from enum import StrEnum

from benchmarks.tasks.families import clocks, numbers, programs, records, tickets, words
from benchmarks.tasks.task import Generator, Question, Task
from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.learning.labels import question_key
from routing.records import Api

# family: (generator, levels that are in the suite)
# Levels were chosen on real answers: the embedded stand-in is right on about 70 % or more, tier 1 less often.
FAMILIES: dict[str, tuple[Generator, tuple[int, ...]]] = {
    "arithmetic": (numbers.arithmetic, (1, 2, 3, 4)),
    "word_problems": (numbers.word_problem, (1,)),
    "units": (numbers.unit, (1,)),
    "dates": (clocks.date, (1, 2)),
    "extraction": (records.extraction, (1, 2)),
    "lookup": (records.lookup, (1, 2)),
    "ordering": (records.ordering, (1,)),
    "tickets": (tickets.ticket, (1, 2)),
    "code_output": (programs.output, (1,)),
    "code_functions": (programs.function, (1, 2)),
    "strings": (words.string, (1, 2)),
    "counting": (words.count, (1,)),
    "instructions": (words.instruction, (1, 2)),
    "translation": (words.translation, (1,)),
}
MAX_DRAWS = 200  # per question, before a family is found to be too small for its splits


class Split(StrEnum):
    """What a question may be used for."""

    TRAIN = "train"  # of the router and the gate
    CALIBRATION = "calibration"  # of the same
    TEST = "test"
    TUNING = "tuning"  # of tier 1: what it has learned by heart can teach no gate


DRAW_ORDER = (Split.TEST, Split.CALIBRATION, Split.TRAIN, Split.TUNING)
SIZES = {Split.TRAIN: 120, Split.CALIBRATION: 120, Split.TEST: 60}  # questions a family
# Of the tuning split: more where tier 1 was worth less than 0.91 of the frontier, at most what a family can still make.
TUNING_SIZES = {
    "arithmetic": 240, "word_problems": 320, "units": 180, "dates": 360, "extraction": 160, "lookup": 240,
    "ordering": 240, "tickets": 420, "code_output": 340, "code_functions": 480, "strings": 240, "counting": 240,
    "instructions": 220, "translation": 160,
}  # fmt: skip


class TooSmall(ValueError):
    """A family cannot make so many different questions."""


def tasks(
    split: Split, seed: int = 0, families: dict[str, tuple[Generator, tuple[int, ...]]] | None = None
) -> list[Task]:
    """The questions of one split, `size` of each family, levels in turn. Raises TooSmall."""
    return [
        task
        for name, (make, levels) in (families or FAMILIES).items()
        for task in family(name, make, levels, split, seed)
    ]


def family(name: str, make: Generator, levels: tuple[int, ...], split: Split, seed: int) -> list[Task]:
    """One family's questions of one split."""
    taken: set[str] = set()
    for drawn in DRAW_ORDER:
        found = list(draw(name, make, levels, drawn, seed, taken))
        if drawn is split:
            return found
    raise AssertionError(split)


def draw(
    name: str, make: Generator, levels: tuple[int, ...], split: Split, seed: int, taken: set[str]
) -> Iterator[Task]:
    """`size` new questions. Their keys are added to `taken`."""
    rng = random.Random(f"{seed}:{split}:{name}")
    for number in range(size(split, name)):
        level = levels[number % len(levels)]
        for _ in range(MAX_DRAWS):
            question = make(rng, level)
            if (key := question_key(question.prompt)) not in taken:
                break
        else:
            raise TooSmall(f"{name} level {level} has no further question for {split} after {number}")
        taken.add(key)
        yield as_task(f"{name}-{level}-{split}-{number:04d}", name, level, question)


def size(split: Split, name: str) -> int:
    """How many questions of a family a split holds."""
    return TUNING_SIZES.get(name, SIZES[Split.TRAIN]) if split is Split.TUNING else SIZES[split]


def as_task(name: str, kind: str, level: int, question: Question) -> Task:
    """The question as a request, with the category that the gateway will give it."""
    messages = ({"role": "user", "content": question.prompt},)
    body = {"messages": list(messages), "response_format": question.response_format}
    return Task(
        id=name,
        kind=kind,
        level=level,
        category=request_features(body, Api.CHAT, 0, PolicyConfig()).category,
        messages=messages,
        max_tokens=question.max_tokens,
        response_format=question.response_format,
        verifier=question.verifier,
    )
