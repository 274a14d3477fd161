"""What may be kept and asked for training. Texts are an opt-in: by default none is ever stored."""

from typing import Annotated

from pydantic import Field

from routing.records import Record

Rate = Annotated[float, Field(ge=0, le=1)]


class ShadowConfig(Record):
    """Which share of tier 1's requests is sent to the frontier as well, after the user has the answer."""

    rate: Rate = Field(0.0, description="share of requests that tier 1 served; 0: none")
    categories: dict[str, Rate] = Field(default_factory=dict, description="other shares, by category")
    daily_budget_usd: float = Field(1.0, ge=0, description="of answers and judgements, per UTC day and ledger")
    judge: bool = Field(True, description="let the frontier compare both answers blindly, in both orders")
    queue_size: int = Field(32, ge=1, description="waiting shadows; further ones are dropped and counted")
    concurrency: int = Field(1, ge=1, description="shadows at once")
    deadline_s: float = Field(120.0, gt=0, description="of each call")


class LearningConfig(Record):
    """What is gathered, of which tenants, and how much of one tenant at most.

    The limits per tenant keep a flood of requests from one tenant from shaping the models of all.
    """

    keep_texts_rate: Rate = Field(0.0, description="share of all requests whose redacted texts are kept; 0: none")
    keep_escalations: bool = Field(False, description="keep the texts where the frontier replaced a rejected draft")
    opted_out: frozenset[str] = Field(frozenset(), description="tenants of whom nothing is kept and nothing is asked")
    retention_days: float = Field(30.0, gt=0, description="then samples and feedback are deleted")
    max_text_chars: int = Field(20_000, ge=100, description="a longer text is not kept")
    samples_per_tenant_per_day: int = Field(1000, ge=0)
    feedback_per_tenant_per_day: int = Field(200, ge=0, description="then 429")
    shadow: ShadowConfig = ShadowConfig()

    def shadow_rate(self, category: str) -> float:
        """Share of a category's tier-1 answers to shadow."""
        return self.shadow.categories.get(category, self.shadow.rate)
