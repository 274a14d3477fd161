"""The arithmetic of a promotion: better surely, no category worse than its margin, every reason by name."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.learning.promotion import Margins, Outcomes, RefusalReason, compare, refusals

MARGINS = Margins(n_resamples=300, min_labels=50)
N = 400
CATEGORIES = ["a", "b"] * (N // 2)


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tier 1's quality, the frontier's, tier 1 ok): tier 1 is right on 60 %, the frontier always."""
    rng = np.random.default_rng(seed)
    tier1 = (rng.random(N) < 0.6).astype(float)
    return tier1, np.ones(N), tier1


def outcomes(stays: np.ndarray, tier1: np.ndarray, frontier: np.ndarray, p: np.ndarray | None = None) -> Outcomes:
    return Outcomes(np.where(stays, tier1, frontier), 1.0 - stays, p)


def reasons(running: Outcomes, candidate: Outcomes, ok: np.ndarray, margins: Margins = MARGINS) -> list[RefusalReason]:
    return [r.reason for r in refusals(compare(running, candidate, ok, CATEGORIES, margins), margins)]


def test_candidate_that_keeps_good_drafts_is_promoted() -> None:
    tier1, frontier, ok = world()
    nothing_stays = outcomes(np.zeros(N, bool), tier1, frontier)
    good = outcomes(ok > 0.5, tier1, frontier, p=ok * 0.8 + 0.1)
    assert reasons(nothing_stays, good, ok) == []


def test_shuffled_labels_have_no_signal() -> None:
    tier1, frontier, ok = world()
    guess = np.random.default_rng(1).random(N)
    shuffled = outcomes(guess > 0.4, tier1, frontier, p=guess)
    found = reasons(outcomes(np.zeros(N, bool), tier1, frontier), shuffled, ok)
    assert RefusalReason.NO_SIGNAL in found
    assert RefusalReason.CATEGORY_WORSE in found


def test_one_category_that_pays_for_the_other_is_named() -> None:
    tier1, frontier, ok = world()
    in_b = np.array(CATEGORIES) == "b"
    stays = (ok > 0.5) | in_b
    candidate = outcomes(stays, tier1, frontier)
    comparison = compare(outcomes(np.zeros(N, bool), tier1, frontier), candidate, ok, CATEGORIES, MARGINS)
    found = [r for r in refusals(comparison, MARGINS) if r.reason is RefusalReason.CATEGORY_WORSE]
    assert [r.detail[:2] for r in found] == ["b:"]


def test_same_as_what_runs_is_not_better() -> None:
    tier1, frontier, ok = world()
    same = outcomes(ok > 0.5, tier1, frontier)
    assert reasons(same, same, ok) == [RefusalReason.NOT_BETTER]


def test_few_labels_promote_nothing() -> None:
    tier1, frontier, ok = world()
    good = outcomes(ok > 0.5, tier1, frontier)
    few = MARGINS.model_copy(update={"min_labels": N + 1})
    assert RefusalReason.TOO_FEW in reasons(outcomes(np.zeros(N, bool), tier1, frontier), good, ok, few)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.0, 1.0))
def test_nothing_is_both_better_than_and_worse_than(seed: int, rate: float) -> None:
    """If A may replace B, B may not replace A."""
    rng = np.random.default_rng(seed)
    tier1, frontier, ok = world(seed)
    a, b = (outcomes(rng.random(N) < r, tier1, frontier) for r in (rate, 1 - rate))
    assert reasons(a, b, ok) or reasons(b, a, ok)


@pytest.mark.parametrize("worth", [0.0, 0.9])
def test_price_of_a_call_decides_what_is_better(worth: float) -> None:
    tier1, frontier, ok = world()
    everything, nothing = (outcomes(np.full(N, stays), tier1, frontier) for stays in (True, False))
    margins = Margins(n_resamples=300, frontier_call_worth=worth, category_margin=1.0)
    assert (reasons(nothing, everything, ok, margins) == []) == (worth == 0.9)
