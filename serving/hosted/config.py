"""The `frontier` section: which providers may answer, in which order, and how long we wait for each."""

from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from routing.records import Record


class BreakerConfig(Record):
    """When a provider is left alone, and for how long."""

    failures_to_open: int = Field(
        5, ge=1, description="consecutive failures; rate limits and refused requests count not"
    )
    open_s: float = Field(
        10.0, gt=0, le=30, description="rest before one request may probe; so recovery is seen in 30 s"
    )


class PromptCacheConfig(Record):
    """Anthropic's explicit prompt cache. OpenAI's needs no marks."""

    enabled: bool = True
    min_tokens: int = Field(
        1024, ge=0, description="shorter conversations are not marked; the smallest prefix Anthropic caches at all"
    )


class ProviderConfig(Record):
    """One provider and the model it serves."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="first half of the price key")
    kind: Literal["openai", "anthropic"]
    base_url: str = Field(pattern=r"^https?://", description="OpenAI: with /v1; Anthropic: with or without")
    api_key: SecretStr
    model: str = Field(min_length=1)
    max_context_tokens: int = Field(ge=1, description="input and output together")
    max_output_tokens: int | None = Field(
        None,
        ge=1,
        description="the client's limit is cut to it; kind anthropic: also the limit when the client sets none",
    )
    drop_params: tuple[str, ...] = Field((), description="body fields this provider refuses; may be stream_options")
    rename_params: dict[str, str] = Field(
        default_factory=dict, description="OpenAI field -> this provider's, as max_completion_tokens: max_tokens"
    )
    send_cache_key: bool = Field(
        False, description="kind openai: send prompt_cache_key, hashed per tenant and session, to find the warm machine"
    )
    prompt_cache: PromptCacheConfig = PromptCacheConfig()
    breaker: BreakerConfig = BreakerConfig()

    @field_validator("drop_params")
    @classmethod
    def _keeps_what_makes_a_request(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if kept := {"messages", "model"} & set(names):
            raise ValueError(f"drop_params must not hold {sorted(kept)}: nothing would be left to ask")
        return names

    @model_validator(mode="after")
    def _anthropic_needs_an_output_limit(self) -> Self:
        if self.kind == "anthropic" and self.max_output_tokens is None:
            raise ValueError(f"provider {self.name!r}: set max_output_tokens; Anthropic's API requires one per request")
        return self


class FrontierConfig(Record):
    """Providers in order, with one budget of tries and one deadline."""

    providers: tuple[ProviderConfig, ...] = Field(min_length=1)
    max_tries: int = Field(3, ge=1, le=10, description="for one request, over all providers")
    quick_retries: int = Field(
        1, ge=0, description="further tries at a provider that failed at once (500, reset) before the next one is asked"
    )
    connect_timeout_s: float = Field(5.0, gt=0)
    ttft_timeout_s: float = Field(20.0, gt=0, description="request sent to first content; then the next provider")
    idle_timeout_s: float = Field(30.0, gt=0, description="longest gap between two pieces of content")
    backoff_s: float = Field(
        0.25, ge=0, description="before the first repetition at a provider; doubles, half of it random"
    )
    max_wait_s: float = Field(
        10.0, ge=0, description="a longer Retry-After is only waited for when no other provider is left"
    )

    @field_validator("providers")
    @classmethod
    def _names_are_unique(cls, providers: tuple[ProviderConfig, ...]) -> tuple[ProviderConfig, ...]:
        names = [provider.name for provider in providers]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"provider names must differ (they key prices and breakers); used twice: {twice}")
        return providers
