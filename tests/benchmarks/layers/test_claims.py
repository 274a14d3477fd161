"""The sentences beside the published claims follow the figures, whichever way these point."""

import pytest

from benchmarks.layers.claims import FRONTIER, GATE, ROUTING, Comparison, Measured, Where, compare, percent, placed
from benchmarks.layers.factors import Ceiling, together
from tests.benchmarks.layers.answers import by_tier1, ladder, measured, one


def claims(table: Measured, best: Ceiling | None = None) -> dict[str, Comparison]:
    first, last = table.rows[0].name, table.rows[-1].name
    whole = together(table.requests[first], table.requests[last], (1.0, 1.0))
    return {c.claim: c for c in compare(table, whole, best)}


def test_each_claim_is_placed_by_what_was_measured() -> None:
    found = claims(ladder())
    assert {name: c.where for name, c in found.items()} == {
        "routing": Where.WITHIN, "caching": Where.BELOW, "kernels": Where.WITHIN, "together": Where.BELOW,
    }  # fmt: skip
    assert found["routing"].saved.value == pytest.approx(0.46)
    assert found["kernels"].saved.value == pytest.approx(0.75)


def test_sentences_carry_the_figures() -> None:
    found = claims(ladder())
    assert "tier 1 answered 50 % of the requests, which are 50 % of the frontier's bill" in found["routing"].sentence
    assert "25 % of our engines' prompt tokens were cached" in found["caching"].sentence
    assert "the frontier's part, whose own cache is in every row, moved by 0.0 %" in found["caching"].sentence
    assert "(4.00 times cheaper)" in found["kernels"].sentence
    assert "the layer furthest below its claim is caching" in found["together"].sentence


@pytest.mark.parametrize(("saved", "ending"), [(0.3, "only a better tier 1"), (0.8, "better labels")])
def test_what_would_lift_the_product_depends_on_what_a_perfect_choice_saves(saved: float, ending: str) -> None:
    best = Ceiling(accuracy_ratio=0.98, kept_ratio=0.5, saved_ratio=saved)
    assert ending in claims(ladder(), best)["together"].sentence


def test_a_layer_that_costs_more_is_a_negative_saving() -> None:
    table = measured((FRONTIER, one), (ROUTING, lambda n: one(n, own_usd=1e-4)), (GATE, lambda n: one(n, own_usd=1e-4)))
    routing = claims(table)["routing"]
    assert routing.saved.value == pytest.approx(-0.1)
    assert routing.where is Where.BELOW
    assert "-10 % saved" in routing.sentence


def test_rows_that_were_not_played_have_no_claim() -> None:
    table = measured((FRONTIER, one), (ROUTING, by_tier1))
    assert set(claims(table)) == {"routing", "together"}


def test_nothing_is_said_of_layers_that_were_not_compared() -> None:
    table = measured((FRONTIER, one), ("everything", by_tier1))
    assert "its claim" not in claims(table)["together"].sentence


def test_an_unknown_price_is_said() -> None:
    table = measured((FRONTIER, one), (ROUTING, lambda n: one(n, frontier_usd=None)))
    routing = claims(table)["routing"]
    assert routing.where is Where.UNKNOWN
    assert "not measured" in routing.sentence


@pytest.mark.parametrize(
    ("value", "low", "high", "where"),
    [
        (0.29, 0.3, 0.6, Where.BELOW), (0.3, 0.3, 0.6, Where.WITHIN), (0.6, 0.3, 0.6, Where.WITHIN),
        (0.61, 0.3, 0.6, Where.ABOVE), (0.64, 0.63, 0.63, Where.WITHIN), (0.62, 0.63, 0.63, Where.BELOW),
        (None, 0.3, 0.6, Where.UNKNOWN),
    ],
)  # fmt: skip
def test_both_ends_belong_to_a_range_and_one_figure_is_met_from_there_on(
    value: float | None, low: float, high: float, where: Where
) -> None:
    assert placed(value, low, high) is where


def test_shares_in_words() -> None:
    assert [percent(v) for v in (None, 0.5, -0.2, 0.031)] == ["an unknown share", "50 %", "-20 %", "3.1 %"]
