"""Which price a call pays: standard, batch, long prompts. What is not in the table has no price."""

import pytest
from pydantic import ValidationError

from routing.cost.attempt import TokenPrice
from routing.records import Usage
from serving.audit.traffic.prices import ModelPrices, PriceTable


def price(input_usd: float) -> TokenPrice:
    return TokenPrice(input_usd=input_usd, output_usd=5 * input_usd, source="list", as_of="2026-01-31")


PRICES = ModelPrices(
    standard=price(2), batch=price(1), long_context=price(4), long_batch=price(3), long_after_tokens=200_000
)


@pytest.mark.parametrize(
    ("input_tokens", "batch", "usd_per_million"),
    [(1000, False, 2), (1000, True, 1), (200_000, False, 2), (200_001, False, 4), (200_001, True, 3)],
)
def test_whole_prompt_pays_the_price_of_its_length_and_tier(
    input_tokens: int, batch: bool, usd_per_million: float
) -> None:
    usage = Usage(input_tokens=input_tokens, output_tokens=0)
    assert PRICES.usd(usage, batch=batch) == pytest.approx(input_tokens * usd_per_million * 1e-6)


def test_tier_that_is_not_sold_has_no_price() -> None:
    prices = ModelPrices(standard=price(2))
    assert prices.usd(Usage(input_tokens=1, output_tokens=1), batch=True) is None


def test_long_price_without_a_beginning_is_refused() -> None:
    with pytest.raises(ValidationError, match="long_after_tokens"):
        ModelPrices(standard=price(2), long_context=price(4))
    with pytest.raises(ValidationError, match="long_batch"):
        ModelPrices(standard=price(2), long_batch=price(4))


def test_providers_own_entry_wins_over_the_bare_name() -> None:
    own, bare = ModelPrices(standard=price(3)), ModelPrices(standard=price(2))
    table = PriceTable(source="t", as_of="2026-01-31", models={"acme/large": own, "large": bare})
    assert table.find("acme", "large") is own
    assert table.find("other", "large") is bare
    assert table.find(None, "large") is bare


def test_unknown_model_has_no_price_and_not_a_price_of_zero() -> None:
    """An unknown price is None, never 0."""
    assert PriceTable(source="t", as_of="2026-01-31").find("acme", "large") is None
