"""Runs one vLLM engine with vLLM's own serving objects around it.

All imports of vLLM are in the vllm_*.py files, so an upgrade of vLLM fails here and in the contract tests.
vLLM's serving objects render answers (templates, tools, JSON schema, logprobs, usage). Between them and its engine is
`WatchedEngine`. It lets every output through and notes what the gate has to see: text, logprobs and counts.
"""

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from starlette.datastructures import State
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import run_server
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.inputs.engine import tokens_input
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.utils.argparse_utils import FlexibleArgumentParser

from routing.records import Api, Usage
from serving.engine.framing import Step
from serving.engine.vllm_errors import raise_refusal, translate
from serving.engine.vllm_load import Load, LoadMeter
from serving.engine.vllm_watch import Watch, WatchedEngine
from serving.errors import ContextLengthExceeded, InvalidRequest, StackError

SSE_PREFIX = "data: "
SSE_END = "[DONE]"


@dataclass(frozen=True, slots=True)
class LabelLogprobs:
    """Natural-log probabilities of the label tokens as the next token, in the order they were asked for."""

    logprobs: tuple[float, ...]
    usage: Usage


class VllmEngine:
    """One running engine with vLLM's serving objects around it. Use it from one event loop."""

    def __init__(self, client: WatchedEngine, state: State, args: Namespace, meter: LoadMeter) -> None:
        self._client = client
        self._state = state
        self._args = args
        self._meter = meter

    @classmethod
    async def start(cls, flags: Mapping[str, str | int | float | bool]) -> Self:
        """Load the model and build the serving objects (minutes when cold). flags: see `parse_flags`."""
        args = parse_flags(flags)
        meters: list[LoadMeter] = []

        def new_meter(vllm_config: Any, engine_index: int = 0) -> LoadMeter:
            meters.append(LoadMeter(vllm_config, engine_index))
            return meters[-1]

        client = WatchedEngine.from_engine_args(AsyncEngineArgs.from_cli_args(args), stat_loggers=[new_meter])
        client.watches = {}
        state = State()
        try:
            await init_app_state(client, state, args, await client.get_supported_tasks())
        except BaseException:
            client.shutdown()
            raise
        return cls(client, state, args, meters[0])

    @property
    def tokenizer(self) -> Any:
        """The model's Hugging Face tokenizer."""
        return self._client.renderer.tokenizer

    @property
    def block_size_tokens(self) -> int:
        """Tokens of one KV block."""
        return int(self._client.vllm_config.cache_config.block_size)

    @property
    def kv_blocks(self) -> int:
        """KV blocks of the engine. Times block_size_tokens it is the capacity in tokens."""
        return int(self._client.vllm_config.cache_config.num_gpu_blocks or 0)

    @property
    def kv_block_bytes(self) -> int:
        """Bytes of one KV block: keys and values of every layer, all tensor-parallel ranks together."""
        config = self._client.vllm_config
        model, cache = config.model_config, config.cache_config
        value_bytes = 1 if str(cache.cache_dtype).startswith("fp8") else model.dtype.itemsize
        layers = model.get_num_layers(config.parallel_config)
        return int(2 * layers * model.get_total_num_kv_heads() * model.get_head_size() * value_bytes * cache.block_size)

    @property
    def kv_event_sources(self) -> list[dict[str, str]]:
        """Where each data-parallel rank publishes KV events: `endpoint`, `replay_endpoint`. Empty when none does."""
        return [
            {"endpoint": source.endpoint, "replay_endpoint": source.replay_endpoint}
            for _, source in sorted(self._client.get_kv_event_sources().items())
            if source.enable_kv_cache_events and source.replay_endpoint is not None
        ]

    async def reset_cache(self) -> bool:
        """Forget every cached prefix. False while requests hold blocks. Followers hear of it after the next step."""
        return bool(await self._client.reset_prefix_cache())

    @property
    def load(self) -> Load:
        """What the scheduler last reported. It changes in place."""
        return self._meter.load

    @property
    def error(self) -> BaseException | None:
        """Why the engine is dead. None while it lives."""
        return self._client.dead_error if self._client.errored else None

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._client.shutdown()

    async def load_lora(self, name: str, folder: str) -> str | None:
        """Make a LoRA adapter answer under `name` from the next request on. Returns the reason when vLLM refuses it.

        The name is part of the keys of the engine's KV blocks, so other weights need another name.
        """
        request = LoadLoRAAdapterRequest(lora_name=name, lora_path=folder)
        said = await self._state.openai_serving_models.load_lora_adapter(request)
        return said.error.message if isinstance(said, ErrorResponse) else None

    async def render(self, body: Mapping[str, Any]) -> list[int]:
        """vLLM's own rendering of a chat body to prompt token ids. Raises InvalidRequest."""
        try:
            _, (prompt,) = await self._state.online_renderer.render_chat(ChatCompletionRequest(**body))
        except Exception as error:
            raise translate(error, InvalidRequest) from error
        return list(prompt["prompt_token_ids"])

    async def answer(
        self,
        api: Api,
        body: Mapping[str, Any],
        *,
        model: str,
        request_id: str,
        prompt_token_ids: list[int],
        cache_salt: str,
        stream: bool,
        failed: type[StackError],
    ) -> AsyncGenerator[Step, None]:
        """Answer an OpenAI body whose prompt is already tokenized. vLLM's request id is made of `request_id`.

        Evidence comes with its data or before it. Closing the generator aborts the request. Raises InvalidRequest,
        ContextLengthExceeded, QueueFull, or `failed` for everything that is not the request's fault.
        """
        limit = self._client.model_config.max_model_len
        if len(prompt_token_ids) >= limit:  # vLLM raises a bare ValueError. One token has to be generated.
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt_token_ids)} tokens; {model} takes {limit}, answer included",
                param="messages" if api is Api.CHAT else "prompt",
            )
        watch = Watch()
        engine_id = f"chatcmpl-{request_id}" if api is Api.CHAT else f"cmpl-{request_id}-0"
        assert engine_id not in self._client.watches, "request ids are ours and unique"
        self._client.watches[engine_id] = watch
        try:
            request = openai_request(api, body, model, request_id, prompt_token_ids, cache_salt, stream)
            create = (
                self._state.openai_serving_chat.create_chat_completion
                if api is Api.CHAT
                else self._state.openai_serving_completion.create_completion
            )
            steps = self._stream(create, request, watch) if stream else self._whole(create, request, watch)
            try:
                async for step in steps:
                    yield step
            finally:
                await steps.aclose()
        except StackError:
            raise
        except Exception as error:
            raise translate(watch.error or error, failed) from error
        finally:
            del self._client.watches[engine_id]
            if watch.outputs is not None:
                await watch.outputs.aclose()

    async def _stream(self, create: Callable[..., Any], request: Any, watch: Watch) -> AsyncGenerator[Step, None]:
        chunks = raise_refusal(await create(request))
        try:
            async for event in chunks:
                data = event.removeprefix(SSE_PREFIX).rstrip()
                if watch.error is not None:
                    raise watch.error
                if data.startswith('{"error"'):
                    raise_refusal(ErrorResponse.model_validate_json(data))
                if data != SSE_END:
                    yield Step(data, watch.take())
        finally:
            await chunks.aclose()

    async def _whole(self, create: Callable[..., Any], request: Any, watch: Watch) -> AsyncGenerator[Step, None]:
        task = asyncio.ensure_future(create(request))
        task.add_done_callback(lambda _: watch.something.set())
        try:
            while not task.done():
                await watch.something.wait()
                if evidence := watch.take():
                    yield Step(None, evidence)
            response = raise_refusal(task.result())
            yield Step(json.dumps(openai_body(response), ensure_ascii=False, separators=(",", ":")), watch.take())
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task

    async def label_logprobs(
        self,
        prompt_token_ids: list[int],
        label_ids: Sequence[int],
        *,
        request_id: str,
        cache_salt: str,
        failed: type[StackError],
    ) -> LabelLogprobs:
        """Exact log-probabilities of the labels as the next token, from one prefill. Raises as `answer`."""
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprob_token_ids=list(label_ids),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompt = tokens_input(prompt_token_ids, cache_salt=cache_salt)
        try:
            output = [o async for o in self._client.generate(prompt, params, request_id)][-1]
        except Exception as error:
            raise translate(error, failed) from error
        (row,) = output.outputs[0].logprobs
        return LabelLogprobs(
            tuple(float(row[label].logprob) for label in label_ids),
            Usage(
                input_tokens=len(prompt_token_ids),
                output_tokens=len(output.outputs[0].token_ids),
                cached_tokens=output.num_cached_tokens,
            ),
        )

    async def generate_one(self, request_id: str, *, failed: type[StackError]) -> None:
        """Generate one token from one token, to prove that the engine works. Raises as `answer`."""
        params = SamplingParams(max_tokens=1, temperature=0.0, detokenize=False)
        try:
            async for _ in self._client.generate(tokens_input([0]), params, request_id):
                pass
        except Exception as error:
            raise translate(error, failed) from error


def parse_flags(flags: Mapping[str, str | int | float | bool]) -> Namespace:
    """vLLM's parsed command line, from names with underscores. True and False become --flag and --no-flag.

    Raises SystemExit like any argparse parser, naming the unknown flag on stderr.
    """
    words: list[str] = []
    for name, value in flags.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option}={value}")
    args: Namespace = make_arg_parser(FlexibleArgumentParser(prog="vllm")).parse_args(words)
    validate_parsed_serve_args(args)
    return args


def serve_openai(flags: Mapping[str, str | int | float | bool]) -> None:
    """Run vLLM's own OpenAI server in this process until it is told to stop."""
    asyncio.run(run_server(parse_flags(flags)))


def openai_request(
    api: Api,
    body: Mapping[str, Any],
    model: str,
    request_id: str,
    prompt_token_ids: list[int],
    cache_salt: str,
    stream: bool,
) -> Any:
    """vLLM's request object. The fields that only we may set are written last, over whatever the body holds."""
    ours: dict[str, Any] = {
        "model": model,
        "request_id": request_id,
        "cache_salt": cache_salt,
        "stream": stream,
        "stream_options": {"include_usage": True} if stream else None,
        "priority": 0,
        "kv_transfer_params": None,
        "vllm_xargs": None,
    }
    if current_platform.is_cpu():
        # A seeded request whose prompt takes more than one step makes vLLM 0.32 wind its generator back. PyTorch's CPU
        # generator refuses that, and the engine would die of one client's parameter.
        ours["seed"] = None
    if api is Api.CHAT:
        # vLLM pops the ids and skips template and tokenizer. Tool choice and schema handling still run.
        ours["kv_transfer_params"] = {"prompt_token_ids": prompt_token_ids}
        return ChatCompletionRequest(**{**body, **ours})
    return CompletionRequest(**{**body, **ours, "prompt": prompt_token_ids})


def openai_body(response: Any) -> dict[str, Any]:
    """The response in OpenAI's shape. vLLM's own null fields are dropped. What OpenAI sends as null stays."""
    body: dict[str, Any] = response.model_dump(mode="json", exclude_none=True)
    for choice in body["choices"]:
        choice.setdefault("logprobs", None)
        if "message" in choice:
            choice["message"].setdefault("content", None)
    return body
