"""Facts out of texts: records as JSON under a schema, and single facts looked up in a paragraph."""

import random
from itertools import pairwise
from typing import Any

from benchmarks.tasks.task import Exact, Json, Question

_NAMES = ("Mira Holt", "Tom Weber", "Ines Roth", "Paul Lang", "Vera Stern", "Otto Klein", "Lena Vogt", "Karl Busch",
          "Nora Frey", "Emil Kraus", "Rosa Beck", "Finn Adler", "Ada Brandt", "Hugo Maier", "Ella Sommer")  # fmt: skip
_CITIES = ("Lisbon", "Oslo", "Vienna", "Porto", "Riga", "Turin", "Ghent", "Bergen", "Graz", "Malaga", "Basel", "Leeds")
_PRODUCTS = ("lamp", "desk", "kettle", "tent", "camera", "printer", "bicycle", "heater", "keyboard", "monitor", "drill")
_DRINKS = ("tea", "coffee", "milk", "water", "cocoa", "juice", "lemonade")
_PETS = ("a cat", "a dog", "a parrot", "a rabbit", "a turtle", "a hamster", "a snake")
_JOBS = ("a baker", "a nurse", "a pilot", "a teacher", "a painter", "a lawyer", "a cook", "a farmer")
_FIRST = ("Mira", "Tom", "Ines", "Paul", "Vera", "Otto", "Lena", "Karl", "Nora", "Emil", "Rosa", "Finn")


def extraction(rng: random.Random, level: int) -> Question:
    """1: three plain fields. 2: five fields, with numbers that belong to nothing and a total to leave out."""
    name, city, product = rng.choice(_NAMES), rng.choice(_CITIES), rng.choice(_PRODUCTS)
    quantity, price, order = rng.randint(2, 40), rng.randint(5, 400), rng.randint(1000, 9999)
    value: dict[str, Any] = {"customer": name, "city": city, "product": product}
    if level == 1:
        text = rng.choice(
            (
                f"{name} from {city} ordered a {product} last week.",
                f"Please send the {product} to {name}, who lives in {city}.",
                f"A {product} was bought in {city} by {name}.",
            )
        )
    else:
        value |= {"quantity": quantity, "unit_price": price}
        room, days = rng.randint(2, 90), rng.randint(2, 20)
        text = rng.choice(
            (
                f"Order {order}: {name} (room {room}, {city}) wants {quantity} pieces of the {product} at {price}"
                f" dollars each, {quantity * price} dollars in all, within {days} days.",
                f"Within {days} days we have to ship order {order} to {city}. {name} of room {room} pays"
                f" {quantity * price} dollars for {quantity} times the {product}; one costs {price}.",
            )
        )
    kinds = {key: "integer" if isinstance(field, int) else "string" for key, field in value.items()}
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in kinds.items()},
        "required": list(value),
        "additionalProperties": False,
    }
    return Question(
        f"Extract the order as JSON with the fields {', '.join(value)}.\n\n{text}",
        Json(value=value),
        max_tokens=72,
        response_format={"type": "json_schema", "json_schema": {"name": "order", "schema": schema, "strict": True}},
    )


def lookup(rng: random.Random, level: int) -> Question:
    """1: one fact of one of three people. 2: who fits two facts, among four."""
    n = 2 + level
    people = rng.sample(_FIRST, n)
    drinks, pets, jobs = (rng.sample(pool, n) for pool in (_DRINKS, _PETS, _JOBS))
    lines = [
        rng.choice((f"{p} is {j}, drinks {d} and has {a}.", f"{p}, who has {a}, is {j} and likes to drink {d}."))
        for p, d, a, j in zip(people, drinks, pets, jobs, strict=True)
    ]
    text = " ".join(lines)
    i = rng.randrange(n)
    if level == 1:
        question, answer = rng.choice(
            (
                (f"What does {people[i]} drink?", drinks[i]),
                (f"Which animal does {people[i]} have?", pets[i]),
                (f"What is the job of {people[i]}?", jobs[i]),
            )
        )
    else:
        question, answer = rng.choice(
            (
                (f"Who has {pets[i]}?", people[i]),
                (f"What does the person drink who has {pets[i]}?", drinks[i]),
                (f"What is the job of the person who drinks {drinks[i]}?", jobs[i]),
            )
        )
    bare = answer.removeprefix("a ")
    return Question(
        f"Read the text, then answer with one word.\n\n{text}\n\n{question}",
        Exact(answers=(bare, f"a {bare}")),
        max_tokens=10,
    )


def ordering(rng: random.Random, level: int) -> Question:
    """1: the first or last of three people in two comparisons, in any order."""
    people = rng.sample(_FIRST, 3)
    more, most, least = rng.choice(
        (("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest"))
    )
    facts = [f"{a} is {more} than {b}." for a, b in pairwise(people)]
    rng.shuffle(facts)
    word, answer = rng.choice(((most, people[0]), (least, people[-1])))
    return Question(
        f"Who is the {word}? Answer with the name only.\n\n{' '.join(facts)}", Exact(answers=(answer,)), max_tokens=8
    )
