"""What a model's tokens cost: standard, batch and long-prompt prices, read from a dated table.

The caller passes the table, from the pinned genai-prices package (price_list.py) or a profile.
A model that is not in it has no price. Its price is None and an alarm, never 0.
"""

from typing import Self

from pydantic import Field, model_validator

from routing.cost.attempt import TokenPrice
from routing.records import Record, Usage


class ModelPrices(Record):
    """Every price of one model. A tier that is None is not sold: asking for it gives no price."""

    standard: TokenPrice
    batch: TokenPrice | None = Field(None, description="asynchronous processing, usually half price")
    long_context: TokenPrice | None = Field(None, description="of every token of a prompt above long_after_tokens")
    long_batch: TokenPrice | None = Field(None, description="the same, in a batch")
    long_after_tokens: int | None = Field(None, ge=1, description="prompts above this pay the long price as a whole")

    @model_validator(mode="after")
    def _a_long_price_says_where_it_begins(self) -> Self:
        if (self.long_context is None) != (self.long_after_tokens is None):
            raise ValueError("long_context and long_after_tokens belong together: set both or neither")
        if self.long_batch is not None and self.long_context is None:
            raise ValueError("long_batch without long_context: where would it begin?")
        return self

    def is_long(self, input_tokens: int) -> bool:
        """Whether a prompt of that length pays the long price."""
        return self.long_after_tokens is not None and input_tokens > self.long_after_tokens

    def price(self, *, batch: bool = False, long: bool = False) -> TokenPrice | None:
        """The price list of one kind of call. None when it has none."""
        if not long:
            return self.batch if batch else self.standard
        return self.long_batch if batch else self.long_context

    def usd(self, usage: Usage, *, batch: bool = False) -> float | None:
        """Dollars for these tokens. None when the model is not sold that way."""
        price = self.price(batch=batch, long=self.is_long(usage.input_tokens))
        return None if price is None else price.usd(usage)


class PriceTable(Record):
    """Prices by 'provider/model', or by 'model' where the provider does not matter. `as_of` is the day of the table."""

    source: str = Field(min_length=1)
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    models: dict[str, ModelPrices] = Field(default_factory=dict)

    def find(self, provider: str | None, model: str) -> ModelPrices | None:
        """The prices of a model. The provider's own entry wins over the bare name. None: an unknown price."""
        own = None if provider is None else self.models.get(f"{provider}/{model}")
        return own or self.models.get(model)
