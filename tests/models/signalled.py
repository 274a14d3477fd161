"""Graded pairs with the signals that a stack's ledger holds: logprobs tell most, samples more, the verdict little."""

import random

from routing.learning.labels import Pair
from routing.records import Agreement
from tests.models.graded import NOUNS


def signalled(n: int, seed: int = 0, category: str = "chat") -> list[Pair]:
    """n pairs of one category; half of tier 1's drafts are bad, the frontier is nearly always right."""
    rng = random.Random(seed)
    pairs = []
    for i in range(n):
        good = rng.random() < 0.5
        agree = sum(rng.random() < (0.9 if good else 0.1) for _ in range(2))
        sure = rng.gauss(-0.1 if good else -1.0, 0.25)
        pairs.append(
            Pair(
                id=f"{seed}-{i}",
                category=category,
                prompt=f"{' '.join(rng.choices(NOUNS, k=8))} number {seed}-{i}",
                tier1_quality=float(good),
                frontier_quality=float(rng.random() < 0.97),
                tier1_output="a fine answer",
                tier1_answer="a fine answer",
                p_router=rng.random(),
                mean_logprob=min(sure, -0.001),
                worst_token_logprob=min(2 * sure, -0.001),
                p_judge_ok=min(max(rng.gauss(0.6 if good else 0.4, 0.2), 0.01), 0.99),
                agreement=Agreement(n_samples=2, n_agree=agree, n_rival=2 - agree),
            )
        )
    return pairs
