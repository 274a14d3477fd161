"""What vLLM raises, as our own errors; none is forgotten."""

import inspect
from http import HTTPStatus
from typing import Any

import pytest
from pydantic import ValidationError
from vllm import exceptions as vllm_exceptions
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorInfo, ErrorResponse
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from serving.engine.vllm_errors import raise_refusal, translate
from serving.errors import ContextLengthExceeded, InvalidRequest, QueueFull, StackError, Tier1Failed


def all_vllm_errors() -> list[type[Exception]]:
    found = [e for e in vars(vllm_exceptions).values() if inspect.isclass(e) and issubclass(e, Exception)]
    return [*found, EngineDeadError, EngineGenerateError]


def instance(error: type[Exception]) -> Exception:
    if error.__init__ is Exception.__init__:
        return error("message")
    fillers: dict[str, Any] = {"http_status": HTTPStatus.SERVICE_UNAVAILABLE}
    wanted = list(inspect.signature(error.__init__).parameters.values())[1:]
    needed = [p.name for p in wanted if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    return error(*[fillers.get(name, name) for name in needed])


@pytest.mark.parametrize("theirs", all_vllm_errors(), ids=lambda e: e.__name__)
def test_every_exception_of_vllm_is_translated(theirs: type[Exception]) -> None:
    ours = translate(instance(theirs), Tier1Failed)
    expected: type[StackError] = Tier1Failed
    if issubclass(theirs, vllm_exceptions.VLLMClientError):
        expected = InvalidRequest
    elif issubclass(theirs, vllm_exceptions.GracefulHTTPError):
        expected = QueueFull
    assert type(ours) is expected
    assert ours.message


def test_refusal_names_the_field() -> None:
    error = vllm_exceptions.VLLMValidationError("too hot", parameter="temperature", value=9)
    ours = translate(error, Tier1Failed)
    assert (type(ours), ours.param, ours.message) == (InvalidRequest, "temperature", "too hot")


def test_too_long_a_prompt_is_its_own_error() -> None:
    error = vllm_exceptions.VLLMValidationError("too long", parameter="input_tokens", value=9)
    assert type(translate(error, Tier1Failed)) is ContextLengthExceeded


def test_unknown_exception_is_the_engines_failure_not_the_callers() -> None:
    assert type(translate(RuntimeError("boom"), Tier1Failed)) is Tier1Failed


def test_malformed_body_names_its_field_and_shows_no_content() -> None:
    try:
        ChatCompletionRequest(messages=[{"role": "user", "content": "secret words"}], n="many")
    except ValidationError as error:
        ours = translate(error, Tier1Failed)
    assert (type(ours), ours.param) == (InvalidRequest, "n")
    assert "secret" not in ours.message


@pytest.mark.parametrize(
    ("code", "expected"), [(400, InvalidRequest), (404, InvalidRequest), (500, Tier1Failed), (503, QueueFull)]
)
def test_error_response_becomes_an_exception(code: int, expected: type[StackError]) -> None:
    response = ErrorResponse(error=ErrorInfo(message="no", type="x", code=code, param="n"))
    with pytest.raises(Exception, match="no") as raised:
        raise_refusal(response)
    assert type(translate(raised.value, Tier1Failed)) is expected
    assert raise_refusal("anything else") == "anything else"
