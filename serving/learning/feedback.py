"""Takes `POST /v1/feedback`: a client's feedback on one of its own requests.

Feedback is redacted and capped per tenant. A later one replaces an earlier one on the same request.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from routing.learning.samples import Feedback
from routing.records import Record
from routing.text.redaction import redact
from serving.api.json_body import parse_body
from serving.errors import InvalidRequest, LedgerUnavailable, NotFound, TenantLimited
from serving.learning.config import LearningConfig
from serving.ledger.samples import Asked, SampleStore
from serving.ledger.store import StorageDown
from serving.ledger.writer import Ledger

FLUSH_TIMEOUT_S = 2.0
DAY_S = 86_400.0


class FeedbackBody(Record):
    """What a client sends: a rating, a correction, or both."""

    request_id: str = Field(min_length=1, max_length=128, description="`tierwise.request_id` of the answer")
    rating: Literal[-1, 1] | None = None
    correction: str | None = Field(None, min_length=1, description="what the answer should have been")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.rating is None and self.correction is None:
            raise ValueError("send a rating (1 or -1), a correction, or both")
        return self


class FeedbackStore:
    """Takes feedback in for one gateway process."""

    def __init__(self, config: LearningConfig, ledger: Ledger, store: SampleStore) -> None:
        self._config, self._ledger, self._store = config, ledger, store

    async def take(self, raw: bytes, tenant: str) -> dict[str, Any]:
        """Keep the feedback and confirm it.

        Raises InvalidRequest, NotFound for a request that is not this tenant's (whether or not it exists),
        TenantLimited beyond the day's cap, LedgerUnavailable.
        """
        body = read_feedback(raw, self._config.max_text_chars)
        try:
            recorded = await asyncio.to_thread(self._take, body, tenant, datetime.now(UTC))
        except StorageDown as error:
            raise LedgerUnavailable("the ledger cannot take feedback now; send it again later") from error
        return {"object": "feedback", "request_id": body.request_id, "recorded": recorded}

    def _take(self, body: FeedbackBody, tenant: str, now: datetime) -> bool:
        asked = self._find(body.request_id)
        if asked is None or asked.tenant != tenant:
            raise NotFound(f"you have no request {body.request_id!r}", param="request_id")
        if tenant in self._config.opted_out:
            return False
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        if self._store.count_feedback(tenant, midnight) >= self._config.feedback_per_tenant_per_day:
            raise TenantLimited(
                f"you have sent feedback on {self._config.feedback_per_tenant_per_day} requests today; go on tomorrow",
                retry_after_s=DAY_S - (now - midnight).total_seconds(),
            )
        self._store.put_feedback(
            Feedback(
                request_id=body.request_id,
                at=now.isoformat(timespec="microseconds"),
                tenant=tenant,
                rating=body.rating,
                correction=None if body.correction is None else redact(body.correction),
            )
        )
        return True

    def _find(self, request_id: str) -> Asked | None:
        """The request's row, which may still be on its way into the ledger."""
        found = self._store.asked(request_id)
        if found is None and self._ledger.flush(FLUSH_TIMEOUT_S):
            found = self._store.asked(request_id)
        return found


def read_feedback(raw: bytes, max_text_chars: int) -> FeedbackBody:
    """The validated body. Raises InvalidRequest naming the field."""
    try:
        body = FeedbackBody.model_validate(parse_body(raw))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(f"{param or 'body'}: {first['msg']}", param=param) from None  # its words quote values
    if body.correction is not None and len(body.correction) > max_text_chars:
        raise InvalidRequest(f"correction: longer than {max_text_chars} characters", param="correction")
    return body
