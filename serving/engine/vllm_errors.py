"""Translates vLLM's exceptions and error responses to ours. A test compares the table with all that vLLM raises."""

from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMServerError, VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from serving.errors import ContextLengthExceeded, InvalidRequest, QueueFull, StackError

BUSY_RETRY_AFTER_S = 1.0
TOO_LONG = frozenset({"input_tokens", "input_text"})  # `parameter` of vLLM's context length errors

# Foreign exception -> ours, the first row that matches. Whatever is not listed is the engine's failure, and the cascade
# escalates it. vLLM refuses parameters with ValueError, TypeError and NotImplementedError where it has not moved to its
# own hierarchy yet. Inside the engine they arrive wrapped as EngineGenerateError (a VLLMServerError).
REFUSALS: tuple[tuple[type[Exception], type[StackError]], ...] = (
    (GracefulHTTPError, QueueFull),
    (VLLMClientError, InvalidRequest),
    (ValidationError, InvalidRequest),
    (ValueError, InvalidRequest),
    (TypeError, InvalidRequest),
    (OverflowError, InvalidRequest),
    (NotImplementedError, InvalidRequest),
)


def raise_refusal(result: Any) -> Any:
    """Pass a result through. An ErrorResponse becomes the exception that vLLM rendered it from."""
    if not isinstance(result, ErrorResponse):
        return result
    error = result.error
    if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
        raise GracefulHTTPError(error.message, HTTPStatus.SERVICE_UNAVAILABLE)
    if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise VLLMServerError(error.message)
    raise VLLMValidationError(error.message, parameter=error.param)


def translate(error: Exception, failed: type[StackError]) -> StackError:
    """Our error for one of vLLM's. `failed` is its class when the request is not to blame."""
    ours = next((ours for theirs, ours in REFUSALS if isinstance(error, theirs)), failed)
    if ours is QueueFull:
        return QueueFull(str(error), retry_after_s=BUSY_RETRY_AFTER_S)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return InvalidRequest(first["msg"], param=".".join(str(part) for part in first["loc"]) or None)
    if ours is InvalidRequest:
        param = getattr(error, "parameter", None)
        message = error.args[0] if error.args else type(error).__name__
        return (ContextLengthExceeded if param in TOO_LONG else InvalidRequest)(str(message), param=param)
    reason = "the engine is dead" if isinstance(error, EngineDeadError) else str(error) or type(error).__name__
    return failed(f"vLLM failed: {reason}")
