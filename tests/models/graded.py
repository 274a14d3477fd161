"""Graded pairs with a known truth: tier 1 fails long sums and half of the law, the frontier nearly never."""

import random

from routing.learning.labels import Pair

NOUNS = ["apples", "trains", "coins", "houses", "letters", "birds", "lamps", "boats", "stones", "cards"]


def graded(n: int, seed: int = 0, drafts: bool = True) -> list[Pair]:
    """n pairs over three categories; agreement betrays a bad draft, in a quarter of them also a wrong equation."""
    rng, factors = random.Random(seed), random.Random(seed)
    pairs = []
    for i in range(n):
        category = ("chat", "sums", "law")[i % 3]
        hard = rng.random() < {"chat": 0.05, "sums": 0.5, "law": 0.6}[category]
        words = " ".join(rng.choices(NOUNS, k=12))
        prompt = f"{category} {words} {'integral derivative limit' if hard else 'plain short easy'} number {seed}-{i}"
        tier1 = float(rng.random() < (0.15 if hard else 0.95))
        frontier = float(rng.random() < 0.95)
        a, b = factors.randint(2, 40), factors.randint(2, 40)
        answer = str(a * b if tier1 else a * b + 1)
        working = f"We get {a} * {b} = {answer}. " if i % 4 == 0 else ""
        pairs.append(
            Pair(
                id=f"{seed}-{i}",
                category=category,
                prompt=prompt,
                tier1_quality=tier1,
                frontier_quality=frontier,
                tier1_output=f"{working}The answer is {answer}." if drafts else None,
                tier1_answer=answer if drafts else None,
                other_answers=tuple(str(a * b) if rng.random() < 0.9 else "7" for _ in range(3)) if drafts else (),
            )
        )
    return pairs
