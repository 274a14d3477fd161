"""The contract with vLLM: every name and signature we lean on, so that an upgrade fails here and not in a replica."""

import inspect
from typing import Any

import pytest
from pydantic import BaseModel
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.platforms import current_platform
from vllm.renderers.online_renderer import OnlineRenderer, _reused_prompt_token_ids
from vllm.v1.core.kv_cache_utils import to_event_extra_keys
from vllm.v1.engine.async_llm import AsyncLLM

from routing.records import Api
from serving.engine.config import EngineConfig
from serving.engine.vllm_engine import openai_body, openai_request, parse_flags

pytestmark = pytest.mark.slow


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_engine_generates_from_rendered_prompts_under_our_request_id() -> None:
    assert parameters(EngineClient.generate)[:4] == ["self", "prompt", "sampling_params", "request_id"]
    assert inspect.isasyncgenfunction(AsyncLLM.generate)
    assert "stat_loggers" in parameters(AsyncLLM.from_engine_args)
    used = {"errored", "dead_error", "check_admission", "shutdown", "get_kv_event_sources", "reset_prefix_cache"}
    assert used <= set(dir(AsyncLLM))


def test_serving_objects_answer_a_request_object() -> None:
    assert parameters(init_app_state) == ["engine_client", "state", "args", "supported_tasks"]
    assert parameters(OpenAIServingChat.create_chat_completion) == ["self", "request", "raw_request"]
    assert parameters(OpenAIServingCompletion.create_completion) == ["self", "request", "raw_request"]
    assert "render_chat" in dir(OnlineRenderer)


def test_request_ids_are_prefixed_as_the_watches_expect() -> None:
    chat = inspect.getsource(OpenAIServingChat._create_chat_completion)
    assert 'f"chatcmpl-{self._base_request_id(raw_request, request.request_id)}"' in chat
    completion = inspect.getsource(OpenAIServingCompletion._create_completion)
    assert 'f"cmpl-{self._base_request_id(raw_request, request.request_id)}"' in completion
    assert 'f"{request_id}-{i}"' in completion


def test_chat_takes_our_token_ids_instead_of_tokenizing() -> None:
    class Renderer:
        """Checks ids against the vocabulary; has nothing that could render or tokenize."""

        def validate_token_ids(self, ids: list[int], parameter: str) -> None:
            assert ids == [1, 2]

    body = {"messages": [{"role": "user", "content": "hi"}]}
    request = openai_request(Api.CHAT, body, "m", "id", [1, 2], "salt", stream=False)
    assert request.kv_transfer_params == {"prompt_token_ids": [1, 2]}
    assert _reused_prompt_token_ids(request, Renderer(), body["messages"]) == [1, 2]
    assert not request.kv_transfer_params  # nothing of it reaches the engine's sampling metadata


def test_completions_take_our_token_ids_as_the_prompt() -> None:
    request = openai_request(Api.COMPLETIONS, {"prompt": "hi"}, "m", "id", [1, 2], "salt", stream=True)
    assert isinstance(request, CompletionRequest)
    assert (request.prompt, request.request_id, request.cache_salt) == ([1, 2], "id", "salt")
    assert request.stream_options.include_usage


def test_our_fields_win_over_the_bodys() -> None:
    """Whatever slipped through the allow-list."""
    smuggled = {
        "messages": [{"role": "user", "content": "hi"}],
        "model": "theirs",
        "request_id": "theirs",
        "cache_salt": "theirs",
        "priority": 9,
        "stream": True,
        "vllm_xargs": {"a": "b"},
        "kv_transfer_params": {"do_remote_prefill": True},
    }
    request = openai_request(Api.CHAT, smuggled, "m", "id", [1], "salt", stream=False)
    assert (request.model, request.request_id, request.cache_salt, request.priority) == ("m", "id", "salt", 0)
    assert (request.stream, request.vllm_xargs, list(request.kv_transfer_params)) == (False, None, ["prompt_token_ids"])


@pytest.mark.skipif(not current_platform.is_cpu(), reason="what the CPU's generator cannot do")
def test_a_clients_seed_never_reaches_a_cpu_engine() -> None:
    """It would kill it: "CPU Generator does not use offset", raised in the engine's own loop."""
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 7}
    assert openai_request(Api.CHAT, body, "m", "id", [1], "salt", stream=False).seed is None


def test_profile_flags_are_vllms() -> None:
    config = EngineConfig(
        model="m",
        model_path="/weights/m",
        kv_cache_gib=0.5,
        block_size_tokens=32,
        step_tokens=512,
        tool_parser="hermes",
        enforce_eager=True,
        engine_args={"seed": 7, "enable_chunked_prefill": True},
    )
    args = parse_flags(config.flags())
    assert (args.model, args.served_model_name, args.seed) == ("/weights/m", ["m"], 7)
    assert (args.kv_cache_memory_bytes, args.block_size, args.max_num_batched_tokens) == (2**29, 32, 512)
    assert (args.enforce_eager, args.enable_prefix_caching, args.enable_prompt_tokens_details) == (True, True, True)
    assert (args.tool_call_parser, args.enable_auto_tool_choice) == ("hermes", True)


def test_unknown_flag_stops_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags({"model": "m", "no_such_flag": 1})
    assert "no-such-flag" in capsys.readouterr().err


def test_body_has_openais_fields_and_no_empty_ones_of_vllm() -> None:
    class Whole(BaseModel):
        choices: list[dict[str, Any]]
        prompt_logprobs: None = None

    whole = Whole(choices=[{"index": 0, "message": {"role": "assistant"}, "finish_reason": "tool_calls"}])
    assert openai_body(whole) == {
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": None},
                "finish_reason": "tool_calls",
                "logprobs": None,
            }
        ]
    }
    assert {"prompt_logprobs", "kv_transfer_params", "usage"} <= set(ChatCompletionResponse.model_fields)


def test_adapters_are_loaded_by_name_and_are_part_of_a_blocks_hash() -> None:
    """`VllmEngine.load_lora` and the keys of routing/replicas/kv_blocks.py lean on these."""
    assert parameters(OpenAIServingModels.load_lora_adapter)[:2] == ["self", "request"]
    assert {"lora_name", "lora_path"} <= set(LoadLoRAAdapterRequest.model_fields)
    assert "openai_serving_models" in inspect.getsource(init_app_state)
    keyed = to_event_extra_keys([(("lora", "terse", "/adapters"), ("cache_salt", "salt"))])
    assert keyed == [("terse", "salt")]
