"""serving/hosted/config.py: what a frontier section may say."""

from typing import Any

import pytest

from serving.hosted.config import FrontierConfig

PROVIDER = {
    "name": "a",
    "kind": "openai",
    "base_url": "https://api.openai.com/v1",
    "api_key": "sk-secret-value",
    "model": "m",
    "max_context_tokens": 100,
}


def config(*providers: dict[str, Any], **options: Any) -> FrontierConfig:
    return FrontierConfig.model_validate({"providers": providers or [PROVIDER], **options})


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_token": 5}, "max_token"),
        ({"kind": "bedrock"}, "kind"),
        ({"base_url": "api.openai.com"}, "base_url"),
        ({"drop_params": ["messages"]}, "messages"),
        ({"kind": "anthropic"}, "max_output_tokens"),
        ({"name": "a/b"}, "name"),
    ],
)
def test_a_wrong_provider_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        config({**PROVIDER, **wrong})


def test_two_providers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="used twice"):
        config(PROVIDER, PROVIDER)


def test_a_frontier_without_providers_is_refused() -> None:
    with pytest.raises(ValueError, match="providers"):
        FrontierConfig.model_validate({"providers": []})


def test_the_key_is_never_shown() -> None:
    """Not in the resolved tree that is logged at start."""
    shown = config()
    assert "sk-secret" not in repr(shown) + shown.model_dump_json() + str(shown.model_dump(mode="json"))
