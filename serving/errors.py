"""Every error a caller can meet, with its HTTP status and whether a retry can help.

StackError
├── InvalidRequest            400  the caller's request is wrong, `param` names the field
│   ├── ContextLengthExceeded 400  longer than every tier's context
│   ├── BodyTooLarge          413
│   └── UnsupportedMedia      415
├── Unauthorized              401
├── Forbidden                 403
├── NotFound                  404
├── Conflict                  409  an idempotency key in use
├── ClientGone                499  left before its request was complete, nobody reads the response
├── QueueFull                 429  this stack is full (retry_after_s)
├── TenantLimited             429  this tenant has had its share (retry_after_s)
├── BudgetExceeded            402  the tenant's or the key's budget is used up (retry_after_s)
├── BudgetReserved            429  the rest of it is reserved by running requests (retry_after_s)
├── FrontierRateLimited       429  every provider is rate limited (retry_after_s)
├── FrontierRejected          4xx  the provider refused the request itself, not retried
├── FrontierUnavailable       503  no provider could answer
├── Tier1Failed               502  the engine failed, the cascade turns it into an escalation
├── RouterFailed              502  the router failed, the policy decides without a score
├── DeadlineExceeded          504
├── StreamBroken              502  failed after the first byte: becomes an error frame
├── LedgerUnavailable         503  configured to refuse what it cannot book
├── ConfigInvalid             500  commands and start-up only
│   └── DoesNotFit            500  the engines of a profile need more memory than its machine has
└── AuditError                500  commands only: the log or an option cannot be used
"""

from typing import Any, ClassVar


class StackError(Exception):
    """Base: status, OpenAI error type and code, and whether the same request may succeed later."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    closes: ClassVar[bool] = False  # the connection ends with the response
    tried_out: ClassVar[bool] = False  # all our tries are used up, and an SDK that retries at once would multiply them

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def http_status(self) -> int:
        """The status to send. One subclass passes a provider's own 4xx on."""
        return self.status

    def body(self) -> dict[str, Any]:
        """OpenAI's error shape."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(StackError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class BodyTooLarge(InvalidRequest):
    status, code = 413, "request_too_large"
    closes = True  # otherwise the rest of the body would be read and thrown away


class UnsupportedMedia(InvalidRequest):
    status, code = 415, "unsupported_media_type"


class Unauthorized(StackError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(StackError):
    status, type, code = 403, "permission_error", "forbidden"


class NotFound(StackError):
    status, type, code = 404, "invalid_request_error", "not_found"


class Conflict(StackError):
    status, type, code = 409, "conflict_error", "idempotency_key_in_use"
    retryable = True


class ClientGone(StackError):
    status, type, code = 499, "client_error", "client_gone"


class QueueFull(StackError):
    status, type, code = 429, "rate_limit_error", "queue_full"
    retryable = True


class TenantLimited(StackError):
    status, type, code = 429, "rate_limit_error", "tenant_limited"
    retryable = True


class BudgetExceeded(StackError):
    status, type, code = 402, "billing_error", "budget_exceeded"  # OpenAI's SDK would retry a 429 in vain


class BudgetReserved(StackError):
    status, type, code = 429, "rate_limit_error", "budget_reserved"
    retryable = True


class FrontierRateLimited(StackError):
    status, type, code = 429, "rate_limit_error", "frontier_rate_limited"
    retryable = True


class FrontierRejected(StackError):
    """The provider said the request itself is wrong. Its 400, 404, 413 or 422 is passed on and never retried."""

    status, type, code = 400, "invalid_request_error", "frontier_rejected"

    def __init__(self, message: str, *, upstream_status: int = 400, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.upstream_status = upstream_status

    @property
    def http_status(self) -> int:
        """The provider's status where it is about the request."""
        # A provider's 401 or 403 is about our key. The caller must not take it for their own.
        return self.upstream_status if self.upstream_status in (400, 404, 413, 422) else 502


class FrontierUnavailable(StackError):
    status, code = 503, "frontier_unavailable"
    retryable = tried_out = True


class Tier1Failed(StackError):
    status, code = 502, "tier1_failed"
    retryable = True


class RouterFailed(StackError):
    status, code = 502, "router_failed"
    retryable = True


class DeadlineExceeded(StackError):
    status, type, code = 504, "timeout_error", "deadline_exceeded"
    retryable = tried_out = True


class StreamBroken(StackError):
    status, code = 502, "stream_broken"
    retryable = True


class LedgerUnavailable(StackError):
    status, code = 503, "ledger_unavailable"
    retryable = True


class ConfigInvalid(StackError):
    code = "config_invalid"


class DoesNotFit(ConfigInvalid):
    code = "does_not_fit"


class AuditError(StackError):
    code = "audit_failed"
