"""serving/hosted/faults.py: the translation table covers what the SDKs can raise, and no text quotes a key."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import get_args, get_type_hints

import anthropic
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import (
    ContextLengthExceeded,
    FrontierRateLimited,
    FrontierRejected,
    FrontierUnavailable,
    StackError,
)
from serving.hosted.config import ProviderConfig
from serving.hosted.faults import (
    CLASS_RULES,
    FOREIGN_ERRORS,
    MISUSED,
    STATUS_RULES,
    ProviderFault,
    Reason,
    Remedy,
    find_rule,
    redact,
    retry_after_s,
    safe_cause,
    translate,
    translate_event,
)

KEY = "sk-live-abcdef0123456789"
CONFIG = ProviderConfig.model_validate(
    {
        "name": "a",
        "kind": "openai",
        "base_url": "http://127.0.0.1/v1",
        "api_key": KEY,
        "model": "m",
        "max_context_tokens": 100,
    }
)
SDKS = (openai, anthropic)

# Raised by parts of the SDKs that are not used here: files, websockets, webhooks, helpers, credentials, old APIs.
NEVER_ON_OUR_PATH = {
    "APIRemovedInV1",
    "APIWebhookValidationError",
    "ContentFilterFinishReasonError",
    "InvalidWebhookSignatureError",
    "LengthFinishReasonError",
    "MissingDependencyError",
    "MutuallyExclusiveAuthError",
    "StreamAlreadyConsumed",
    "SubjectTokenProviderError",
    "ToolsetClosedError",
    "ToolsetConfigError",
    "ToolsetContractError",
    "ToolsetUsageError",
    "ToolsetsFixedError",
    "WebSocketConnectionClosedError",
    "WebSocketQueueFullError",
    "WorkloadIdentityError",
    "_AmbiguousModuleClientUsageError",
}


def descendants(base: type[BaseException]) -> Iterator[type[BaseException]]:
    for child in base.__subclasses__():
        yield child
        yield from descendants(child)


def sdk_exceptions() -> list[type[BaseException]]:
    """Every exception class of both SDKs: what their modules export and whatever derives from their roots."""
    for sdk in SDKS:
        for module in pkgutil.iter_modules(sdk.__path__, sdk.__name__ + "."):
            if module.name.rpartition(".")[2] in ("_exceptions", "_error_classes", "_response", "_streaming"):
                importlib.import_module(module.name)
    exported = {
        value
        for sdk in SDKS
        for value in list(vars(sdk).values())
        if issubclass(type(value), type) and issubclass(value, Exception) and value.__module__.startswith(sdk.__name__)
    }
    derived = {*descendants(openai.OpenAIError), *descendants(anthropic.AnthropicError)}
    roots = {openai.OpenAIError, anthropic.AnthropicError}
    return sorted((exported | derived) - roots, key=lambda c: (c.__module__, c.__qualname__))


def class_status(error: type[BaseException]) -> int | None:
    """The HTTP status a class stands for, from its annotation or its value."""
    value = getattr(error, "status_code", None)
    if isinstance(value, int):
        return value
    hint = get_type_hints(error).get("status_code") if error.__module__.endswith("_exceptions") else None
    return next((arg for arg in get_args(hint) if isinstance(arg, int)), None)


@pytest.mark.parametrize("error", sdk_exceptions(), ids=lambda c: f"{c.__module__.split('.')[0]}.{c.__name__}")
def test_every_exception_of_both_sdks_is_in_the_table(error: type[BaseException]) -> None:
    if issubclass(error, openai.APIStatusError | anthropic.APIStatusError):
        status = class_status(error)
        if status is not None:
            assert error in CLASS_RULES or status in STATUS_RULES, f"{error} has the unlisted status {status}"
        assert find_rule(error, status or 500) is not None
        return
    rule = find_rule(error)
    assert rule is not None, f"{error} is in neither table; decide what it means"
    if rule is MISUSED:
        assert error.__name__ in NEVER_ON_OUR_PATH, f"{error} only falls through to its root; decide what it means"


def test_every_transport_error_is_in_the_table() -> None:
    for error in [*descendants(httpx2.HTTPError), *descendants(httpx2.StreamError)]:
        if error is not httpx2.HTTPStatusError:
            assert find_rule(error) is not None
            assert issubclass(error, FOREIGN_ERRORS)


def openai_error(status: int, body: object = None, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """The exception as the SDK itself makes it."""
    sdk = openai.OpenAI(api_key=KEY, base_url="http://127.0.0.1/v1")
    request = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions", headers={"authorization": f"Bearer {KEY}"})
    content = json.dumps(body).encode() if body is not None else b""
    return sdk._make_status_error_from_response(
        httpx2.Response(status, headers=headers, content=content, request=request)
    )


def anthropic_error(status: int, body: object) -> anthropic.APIStatusError:
    sdk = anthropic.Anthropic(api_key=KEY, base_url="http://127.0.0.1")
    request = httpx2.Request("POST", "http://127.0.0.1/v1/messages")
    return sdk._make_status_error_from_response(httpx2.Response(status, json=body, request=request))


@pytest.mark.parametrize(
    ("status", "code", "reason", "remedy", "counts", "told"),
    [
        (400, None, Reason.REJECTED, Remedy.STOP, False, FrontierRejected),
        (400, "content_filter", Reason.CONTENT_FILTER, Remedy.STOP, False, FrontierRejected),
        (400, "context_length_exceeded", Reason.CONTEXT, Remedy.ABANDON, False, ContextLengthExceeded),
        (401, "invalid_api_key", Reason.ACCESS, Remedy.ABANDON, True, FrontierUnavailable),
        (402, None, Reason.QUOTA, Remedy.ABANDON, True, FrontierUnavailable),
        (404, "model_not_found", Reason.ACCESS, Remedy.ABANDON, True, FrontierUnavailable),
        (422, None, Reason.REJECTED, Remedy.STOP, False, FrontierRejected),
        (429, "rate_limit_exceeded", Reason.RATE_LIMITED, Remedy.RETRY, False, FrontierRateLimited),
        (429, "insufficient_quota", Reason.QUOTA, Remedy.ABANDON, True, FrontierUnavailable),
        (500, None, Reason.SERVER_ERROR, Remedy.RETRY, True, FrontierUnavailable),
        (503, None, Reason.OVERLOADED, Remedy.RETRY, True, FrontierUnavailable),
        (307, None, Reason.MALFORMED, Remedy.ELSEWHERE, True, FrontierUnavailable),
        (418, None, Reason.REJECTED, Remedy.STOP, False, FrontierRejected),
        (599, None, Reason.SERVER_ERROR, Remedy.RETRY, True, FrontierUnavailable),
    ],
)
def test_openai_statuses(
    status: int, code: str | None, reason: Reason, remedy: Remedy, counts: bool, told: type[StackError]
) -> None:
    body = {"error": {"message": "why", "type": "invalid_request_error", "code": code, "param": None}}
    fault = translate(openai_error(status, body), CONFIG)
    assert (fault.reason, fault.remedy, fault.counts, fault.status) == (reason, remedy, counts, status)
    assert type(fault.client_error()) is told


def test_the_callers_mistake_is_told_in_the_providers_words_with_its_param() -> None:
    body = {"error": {"message": "max_tokens is too large", "param": "max_tokens", "code": None, "type": "x"}}
    error = translate(openai_error(400, body), CONFIG).client_error()
    assert (error.http_status, error.param) == (400, "max_tokens")
    assert "max_tokens is too large" in error.message


@pytest.mark.parametrize("status", [401, 403, 404])
def test_our_own_key_or_model_being_refused_is_an_outage_not_the_callers_fault(status: int) -> None:
    assert translate(openai_error(status, {"error": {"message": "no"}}), CONFIG).client_error().http_status == 503


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: anthropic_error(529, {"error": {"type": "overloaded_error", "message": "m"}}), Reason.OVERLOADED),
        (
            lambda: anthropic_error(
                400, {"error": {"type": "invalid_request_error", "message": "prompt is too long: 3 tokens > 2 maximum"}}
            ),
            Reason.CONTEXT,
        ),
        (
            lambda: openai_error(
                400, {"error": {"message": "This model's maximum context length is 8 tokens", "code": 400}}
            ),
            Reason.CONTEXT,
        ),
    ],
)
def test_what_providers_say_without_a_code(make: object, reason: Reason) -> None:
    assert translate(make(), CONFIG).reason is reason


@pytest.mark.parametrize(
    ("event", "reason", "remedy"),
    [
        ({"error": {"type": "overloaded_error", "message": "x"}}, Reason.OVERLOADED, Remedy.RETRY),
        ({"error": {"type": "rate_limit_error", "message": "x"}}, Reason.RATE_LIMITED, Remedy.RETRY),
        ({"error": {"type": "BadRequestError", "message": "x", "code": 400}}, Reason.REJECTED, Remedy.STOP),
        ({"error": {"code": "content_filter", "message": "x"}}, Reason.CONTENT_FILTER, Remedy.STOP),
        ({"error": {"message": "x", "code": 503}}, Reason.OVERLOADED, Remedy.RETRY),
        ({"error": {"type": "never_heard_of"}}, Reason.SERVER_ERROR, Remedy.RETRY),
        ({"error": "just text"}, Reason.SERVER_ERROR, Remedy.RETRY),
    ],
)
def test_errors_inside_a_stream(event: dict[str, object], reason: Reason, remedy: Remedy) -> None:
    fault = translate_event(event, CONFIG)
    assert (fault.reason, fault.remedy) == (reason, remedy)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:30 GMT"}, 0),  # already over
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_seconds_milliseconds_or_a_date(headers: dict[str, str], seconds: float | None) -> None:
    wall_clock_s = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    assert retry_after_s(headers, wall_clock_s) == seconds


@pytest.mark.parametrize("status", [*STATUS_RULES, 418, 599])
def test_no_error_text_quotes_the_key(status: int) -> None:
    """A provider that echoes our key does not get it into an error, a cause or a log."""
    body = {"error": {"message": f"Incorrect API key provided: {KEY}", "param": KEY, "code": KEY, "type": KEY}}
    error = openai_error(status, body)
    fault = translate(error, CONFIG)
    assert KEY not in str(fault) + fault.said + str(fault.client_error().body()) + repr(fault.client_error())
    assert safe_cause(error, CONFIG) is None
    assert KEY not in repr(CONFIG) + CONFIG.model_dump_json()


def test_a_harmless_cause_is_kept_for_the_log() -> None:
    error = openai_error(500, {"error": {"message": "try later"}})
    assert safe_cause(error, CONFIG) is error


@given(st.text(max_size=50), st.text(max_size=600))
def test_redaction_leaves_no_key_in_any_text(before: str, after: str) -> None:
    assert KEY not in redact(before + KEY + after, CONFIG)


def test_redaction_hides_masked_and_foreign_keys_but_not_words() -> None:
    assert "abc" not in redact("Incorrect API key: sk-abc***************xyz.", CONFIG)
    assert redact("the key parameter max_tokens", CONFIG) == "the key parameter max_tokens"


def test_a_fault_is_no_stack_error_so_it_cannot_reach_a_client_untranslated() -> None:
    assert not issubclass(ProviderFault, StackError)
