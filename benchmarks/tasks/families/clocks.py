"""Dates and times of day, written another way."""

import datetime
import random

from benchmarks.tasks.task import Exact, Question

_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
           "November", "December")  # fmt: skip


def date(rng: random.Random, level: int) -> Question:
    """1: a written date as YYYY-MM-DD. 2: a time of the 12-hour clock as HH:MM."""
    if level == 1:
        day = datetime.date(rng.randint(1990, 2035), 1, 1) + datetime.timedelta(days=rng.randrange(365))
        shown = f"{day.day} {_MONTHS[day.month - 1]} {day.year}"
        return Question(
            f"Write the date as YYYY-MM-DD. Answer with the date only.\n\n{shown}", Exact(answers=(day.isoformat(),))
        )
    hour, minute, afternoon = rng.randint(1, 11), rng.randint(0, 59), rng.random() < 0.7
    return Question(
        "Write the time in the 24-hour form HH:MM. Answer with the time only.\n\n"
        f"{hour}:{minute:02d} {'pm' if afternoon else 'am'}",
        Exact(answers=(f"{hour + 12 * afternoon:02d}:{minute:02d}",)),
    )
