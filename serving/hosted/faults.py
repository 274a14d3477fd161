"""Translates each failure of a provider: what it means, what helps against it, and what the client is told.

Status codes and in-stream error types decide first. Exception classes of the SDKs and the transport decide where there
is no status. Messages about our own failures never quote the provider, because some providers quote the key.
"""

import math
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai

from serving.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierRateLimited,
    FrontierRejected,
    FrontierUnavailable,
    InvalidRequest,
    StackError,
)
from serving.hosted.config import ProviderConfig


class Reason(StrEnum):
    """Why a try failed. A closed set, used as a metric label."""

    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"  # the account is out of money or over its spend limit
    ACCESS = "access"  # the provider refuses our key, account or model
    REJECTED = "rejected"  # the request itself is wrong
    CONTENT_FILTER = "content_filter"
    CONTEXT = "context"
    UNTRANSLATABLE = "untranslatable"  # the request asks for what this provider does not have
    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    CONNECTION = "connection"
    CUT = "cut"  # the answer ended before it was complete
    MALFORMED = "malformed"  # not the answer of such an API
    TTFT_TIMEOUT = "ttft_timeout"
    IDLE_TIMEOUT = "idle_timeout"
    DEADLINE = "deadline"
    CLIENT = "client"  # our own misuse of an SDK


class Remedy(StrEnum):
    """Who may answer the request after this failure."""

    RETRY = "retry"  # the same provider, at once or when it says
    ELSEWHERE = "elsewhere"  # another provider first, this one again only when there is no other
    ABANDON = "abandon"  # another provider, because this one never will
    STOP = "stop"  # nobody


class Rule(NamedTuple):
    """One line of the table. counts: whether the failure counts towards the provider's breaker."""

    reason: Reason
    remedy: Remedy
    counts: bool


REFUSED = Rule(Reason.REJECTED, Remedy.STOP, False)
NO_ACCESS = Rule(Reason.ACCESS, Remedy.ABANDON, True)
NO_MONEY = Rule(Reason.QUOTA, Remedy.ABANDON, True)
FAILED = Rule(Reason.SERVER_ERROR, Remedy.RETRY, True)
OVERLOADED = Rule(Reason.OVERLOADED, Remedy.RETRY, True)
LIMITED = Rule(Reason.RATE_LIMITED, Remedy.RETRY, False)
UNREACHED = Rule(Reason.CONNECTION, Remedy.RETRY, True)
UNREACHED_SLOWLY = Rule(Reason.CONNECTION, Remedy.ELSEWHERE, True)
NOT_THAT_API = Rule(Reason.MALFORMED, Remedy.ELSEWHERE, True)
MISUSED = Rule(Reason.CLIENT, Remedy.ABANDON, False)

STATUS_RULES: Mapping[int, Rule] = {
    **dict.fromkeys((400, 405, 406, 411, 412, 413, 414, 415, 422, 431), REFUSED),
    **dict.fromkeys((401, 403, 404), NO_ACCESS),  # our key, our account, our model name: never the client's fault
    402: NO_MONEY,
    **dict.fromkeys((408, 409, 425, 499, 500, 501, 502, 504), FAILED),
    429: LIMITED,
    **dict.fromkeys((503, 529), OVERLOADED),
}

CODE_RULES: Mapping[str, Rule] = {
    # error.code (OpenAI) where it is more telling than the status it came with.
    "content_filter": Rule(Reason.CONTENT_FILTER, Remedy.STOP, False),
    "content_policy_violation": Rule(Reason.CONTENT_FILTER, Remedy.STOP, False),
    "context_length_exceeded": Rule(Reason.CONTEXT, Remedy.ABANDON, False),
    "insufficient_quota": NO_MONEY,  # a 429, but no waiting helps
    "billing_hard_limit_reached": NO_MONEY,
}

STREAMED_STATUS: Mapping[str, int] = {
    # error.type of an error event inside a stream, as the status it would have had before the stream began.
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "timeout_error": 408,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "server_error": 500,
    "overloaded_error": 529,
}

CLASS_RULES: Mapping[type[BaseException], Rule] = {
    # For what has no status. The nearest base class decides. Of status errors only those whose status misleads.
    openai.APITimeoutError: UNREACHED_SLOWLY,
    openai.APIConnectionError: UNREACHED,
    openai.APIResponseValidationError: NOT_THAT_API,
    openai.APIError: FAILED,
    openai.OpenAIError: MISUSED,
    openai.InvalidWebhookSignatureError: MISUSED,
    anthropic.ContractSpendLimitReachedError: NO_MONEY,  # a 429 by status, but no waiting helps
    anthropic.EnforcedSpendLimitReachedError: NO_MONEY,
    anthropic.APITimeoutError: UNREACHED_SLOWLY,
    anthropic.APIConnectionError: UNREACHED,
    anthropic.APIResponseValidationError: NOT_THAT_API,
    anthropic.APIWebhookValidationError: MISUSED,
    anthropic.APIError: FAILED,
    anthropic.RetryableError: FAILED,
    anthropic.CredentialsError: NO_ACCESS,
    anthropic.AnthropicError: MISUSED,
    httpx2.TimeoutException: UNREACHED_SLOWLY,
    httpx2.SSEError: NOT_THAT_API,
    httpx2.DecodingError: NOT_THAT_API,
    httpx2.TooManyRedirects: NOT_THAT_API,
    httpx2.UnsupportedProtocol: MISUSED,
    httpx2.HTTPError: UNREACHED,
    httpx2.StreamError: UNREACHED,
    UnicodeEncodeError: REFUSED,  # a lone surrogate in the client's text is no UTF-8
}

FOREIGN_ERRORS = (
    openai.OpenAIError,
    anthropic.AnthropicError,
    httpx2.HTTPError,
    httpx2.StreamError,
    UnicodeEncodeError,
)
"""Exceptions that a call to a provider can raise. They are translated where they enter."""

ABOUT_THE_REQUEST = frozenset({Reason.REJECTED, Reason.CONTENT_FILTER, Reason.CONTEXT, Reason.UNTRANSLATABLE})
MAX_QUOTED_CHARS = 500
# The words of vLLM and Anthropic, because neither has a code.
TOO_LONG = re.compile(r"maximum context length|prompt is too long", re.I)
KEY_LIKE = re.compile(r"\b(?:[sp]k-|Bearer )[A-Za-z0-9*._-]{6,}")


class ProviderFault(Exception):
    """One failed try, translated. It stays inside serving/hosted. Clients get `client_error`.

    said: the provider's own words, only where they are about the request. Anything like a key is removed.
    """

    def __init__(
        self,
        provider: str,
        rule: Rule,
        *,
        status: int | None = None,
        said: str = "",
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"provider {provider!r} failed ({rule.reason}" + (f", HTTP {status})" if status else ")"))
        self.provider = provider
        self.reason, self.remedy, self.counts = rule
        self.status, self.said, self.param, self.retry_after_s = status, said, param, retry_after_s

    def client_error(self) -> StackError:
        """What the client is told when this fault ends its request."""
        if self.reason is Reason.RATE_LIMITED:
            return FrontierRateLimited(f"{self}; retry later", retry_after_s=self.retry_after_s)
        if self.reason is Reason.DEADLINE:
            return DeadlineExceeded(f"{self}: the answer was not complete when the request's time was up")
        message = f"{self}: {self.said}" if self.said else str(self)
        if self.reason is Reason.CONTEXT:
            return ContextLengthExceeded(message, param="messages")
        if self.reason is Reason.UNTRANSLATABLE:
            return InvalidRequest(message, param=self.param)
        if self.reason in ABOUT_THE_REQUEST:
            return FrontierRejected(message, upstream_status=self.status or 400, param=self.param)
        return FrontierUnavailable(message, retry_after_s=self.retry_after_s)


def find_rule(error: type[BaseException], status: int | None = None, code: object = None) -> Rule | None:
    """The rule for a failure. None: not covered.

    With a status its exact class decides, then its code, then the status. Without one its nearest base class decides.
    """
    if status is None:
        return next((CLASS_RULES[base] for base in error.__mro__ if base in CLASS_RULES), None)
    if error in CLASS_RULES:
        return CLASS_RULES[error]
    return CODE_RULES[code] if isinstance(code, str) and code in CODE_RULES else rule_for_status(status)


def rule_for_status(status: int) -> Rule:
    """The rule for an HTTP status. An unlisted 4xx is the request's fault, an unlisted 5xx the provider's."""
    if status in STATUS_RULES:
        return STATUS_RULES[status]
    if status >= 500:
        return FAILED
    return REFUSED if status >= 400 else NOT_THAT_API  # redirects are not followed: the key would go elsewhere


def translate(error: Exception, config: ProviderConfig, now: Callable[[], float] = time.time) -> ProviderFault:
    """A foreign exception as a fault. now: wall-clock seconds, for a Retry-After that is a date."""
    status = error.status_code if isinstance(error, openai.APIStatusError | anthropic.APIStatusError) else None
    detail = error_detail(getattr(error, "body", None))
    response = getattr(error, "response", None)
    wait_s = None if response is None else retry_after_s(response.headers, now())
    return _fault(find_rule(type(error), status, detail.get("code")) or MISUSED, config, status, detail, wait_s)


def safe_cause(error: Exception, config: ProviderConfig) -> Exception | None:
    """The foreign exception for `raise … from`. None when its text holds what a log must not hold."""
    return error if redact(str(error), config, limit=None) == str(error) else None


def translate_event(event: Mapping[str, Any], config: ProviderConfig) -> ProviderFault:
    """An error that arrived inside a stream that had begun with 200."""
    detail = error_detail(event)
    code, kind = detail.get("code"), detail.get("type")
    status = code if isinstance(code, int) and 400 <= code < 600 else STREAMED_STATUS.get(str(kind), 500)
    return _fault(CODE_RULES.get(str(code)) or rule_for_status(status), config, status, detail, None)


def _fault(
    rule: Rule, config: ProviderConfig, status: int | None, detail: Mapping[str, Any], wait_s: float | None
) -> ProviderFault:
    said, param = str(detail.get("message") or ""), detail.get("param")
    if rule is REFUSED and TOO_LONG.search(said):
        rule = CODE_RULES["context_length_exceeded"]
    if rule.reason not in ABOUT_THE_REQUEST:
        said, param = "", None
    param = redact(param, config) if isinstance(param, str) else None
    return ProviderFault(config.name, rule, status=status, said=redact(said, config), param=param, retry_after_s=wait_s)


def error_detail(body: object) -> Mapping[str, Any]:
    """The innermost error object of a body. {} when there is none. Both providers wrap it in `error`."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def redact(text: str, config: ProviderConfig, limit: int | None = MAX_QUOTED_CHARS) -> str:
    """A provider's message without our key or anything that looks like one, cut to a length fit for an error."""
    key = config.api_key.get_secret_value()
    if len(key) >= 6:  # a shorter one is a placeholder such as "none", which is no secret and a common word
        text = text.replace(key, "[redacted]")
    return KEY_LIKE.sub("[redacted]", text)[:limit]


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks us to wait. None when it does not say. Retry-After is seconds or an HTTP date."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit_s
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    try:
        return max(parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now, 0.0)
    except (ValueError, TypeError):
        return None
