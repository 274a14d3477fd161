"""The seconds of a prompt token are found again in rows that were made from them, and never guessed."""

import random
from collections.abc import Callable

import pytest

from routing.cost.prefill_speed import MIN_FIT_ROWS, PrefillFit
from routing.records import RequestRecord, Tier, Usage
from tests.serving.ledger.examples import ACCEPTED, DRAFT


def rows(usage: Callable[[random.Random], Usage], n: int = 200) -> list[RequestRecord]:
    """Drafts of an engine that takes 10 ms, 0.5 ms a read prompt token and 20 ms a written one."""
    dice = random.Random(7)
    records = []
    for _ in range(n):
        used = usage(dice)
        read = used.input_tokens - (used.cached_tokens or 0)
        engine_s = 0.01 + 0.0005 * read + 0.02 * used.output_tokens
        draft = DRAFT.model_copy(update={"usage": used, "engine_s": engine_s})
        records.append(ACCEPTED.model_copy(update={"attempts": (draft,)}))
    return records


def fit(records: list[RequestRecord]) -> PrefillFit:
    found = PrefillFit()
    for record in records:
        found.add(record)
    return found


def any_usage(dice: random.Random) -> Usage:
    prompt = dice.randrange(10, 2000)
    return Usage(input_tokens=prompt, cached_tokens=dice.randrange(prompt), output_tokens=dice.randrange(1, 300))


def test_speed_is_found_again() -> None:
    (speed,) = fit(rows(any_usage)).speeds()
    assert (speed.tier, speed.model, speed.n_attempts) == (Tier.TIER1, "qwen-7b", 200)
    assert speed.s_per_token == pytest.approx(0.0005)


def test_router_that_always_writes_one_token_has_a_speed_too() -> None:
    (speed,) = fit(rows(lambda dice: any_usage(dice).model_copy(update={"output_tokens": 1}))).speeds()
    assert speed.s_per_token == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("usage", "n"),
    [
        (any_usage, MIN_FIT_ROWS - 1),
        (lambda dice: Usage(input_tokens=100, cached_tokens=0, output_tokens=dice.randrange(1, 50)), 200),
        (lambda dice: Usage(input_tokens=(n := dice.randrange(1, 50)), cached_tokens=0, output_tokens=3 * n), 200),
        (lambda dice: any_usage(dice).model_copy(update={"cached_tokens": None}), 200),
        (lambda dice: any_usage(dice).model_copy(update={"estimated": True}), 200),
    ],
    ids=["too-few", "equal-prompts", "output-follows-prompt", "cache-not-reported", "estimated"],
)
def test_what_the_rows_cannot_tell_is_not_guessed(usage: Callable[[random.Random], Usage], n: int) -> None:
    assert fit(rows(usage, n)).speeds() == ()


def test_engine_that_gets_faster_with_longer_prompts_is_not_believed() -> None:
    records = rows(any_usage)
    for index, record in enumerate(records):
        draft = record.attempts[0]
        assert draft.usage is not None
        wrong = draft.model_copy(update={"engine_s": 10 - 0.001 * draft.usage.input_tokens})
        records[index] = record.model_copy(update={"attempts": (wrong,)})
    assert fit(records).speeds() == ()


def test_frontier_is_not_ours_to_measure() -> None:
    records = [
        r.model_copy(update={"attempts": (r.attempts[0].model_copy(update={"provider": "acme"}),)})
        for r in rows(any_usage)
    ]
    assert fit(records).speeds() == ()
