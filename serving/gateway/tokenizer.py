"""Renders a call body's prompt into tier 1's token ids, with control tokens only where the template puts them.

The ids equal those of vLLM's own renderer, except that control-token strings in a caller's text stay text. So an
engine is given these ids. Rendering the messages again would let a caller end his turn and speak as the system.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from routing.records import Api
from serving.errors import ConfigInvalid, ContextLengthExceeded, InvalidRequest

INLINE_CHARS = 4_096  # shorter prompts are rendered on the event loop, where a thread would cost more than it saves
THREADS = 2
TEMPLATE_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
# Text has 3 to 5 characters a token. A prompt is too long when its first 8 characters per allowed token overflow.
PROBE_CHARS_PER_TOKEN = 8


class PromptTokenizer:
    """A fast tokenizer and its chat template, read once from a local directory. No code of the model is run.

    Rendering changes nothing in it, so threads may share one. Only the two parts that are needed are loaded: a
    transformers tokenizer would bring torch along, half a GiB in every gateway process.
    """

    def __init__(self, model_dir: Path) -> None:
        """Raises ConfigInvalid when the directory holds no fast tokenizer with one chat template."""
        try:
            settings = json.loads((model_dir / "tokenizer_config.json").read_text(encoding="utf-8"))
            self._template = _chat_template(model_dir, settings)
            self._backend = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        except Exception as error:  # the backend raises bare Exception
            raise ConfigInvalid(f"no fast tokenizer with one chat template in {model_dir}: {error}") from error
        self._backend.no_truncation()
        self._backend.no_padding()
        self._template_tokens = _template_tokens(settings)
        self.vocab_size: int = self._backend.get_vocab_size()
        self._longest_token_chars = max(map(len, self._backend.get_vocab()))
        self._control = _starts_of(
            token.content
            for token in self._backend.get_added_tokens_decoder().values()
            if token.special or re.fullmatch(r"<\|.+\|>", token.content)
        )
        # Marks where a control-token string is cut in two. It is random, so that no caller's text contains it.
        self._cut = f"cut{secrets.token_hex(16)}"
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="tokenizer")

    async def render(self, api: Api, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """render_chat or render_completion. Long prompts go to a thread, so that the event loop is not blocked."""
        render = self.render_chat if api is Api.CHAT else self.render_completion
        if _chars(body) <= INLINE_CHARS:
            return render(body, max_tokens)
        return await asyncio.get_running_loop().run_in_executor(self._threads, render, body, max_tokens)

    def render_chat(self, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Token ids of a chat body (Call.body), the generation prompt included, shape (input_tokens,).

        max_tokens: a prompt that is certainly longer is refused before all of it is tokenized. None: no limit.
        Raises ContextLengthExceeded for such a prompt, InvalidRequest when the template refuses the conversation.
        """
        conversation = [_template_message(message) for message in body["messages"]]
        if "'developer'" not in self._template and '"developer"' not in self._template:
            conversation = _developer_as_system(conversation)
        tools = [_template_tool(tool) for tool in body["tools"]] if body.get("tools") else None
        try:
            (text,), _ = render_jinja_template(
                [self._guard(conversation)],
                tools=self._guard(tools),
                chat_template=self._template,
                add_generation_prompt=True,
                **self._template_tokens,
                **_reasoning(body.get("reasoning_effort")),
            )
        except Exception as error:  # whatever a template raises, it was this conversation that it could not render
            raise InvalidRequest(
                f"The model's chat template refuses this conversation: {error}", param="messages"
            ) from error
        return self._encode(text, max_tokens, "messages")

    def render_completion(self, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Token ids of a completions body, shape (input_tokens,).

        A raw prompt belongs to the caller from the first token to the last. He may write control tokens in it, as
        ids or as text: fill-in-the-middle needs them. Raises ContextLengthExceeded as render_chat does.
        """
        prompt = body["prompt"]
        if not isinstance(prompt, str):
            return list(prompt)
        self._check_length(prompt, max_tokens, "prompt")
        return self._ids(prompt, add_special_tokens=True)

    def count(self, text: str) -> int:
        """Tokens of a text on its own, without template or special tokens."""
        return len(self._ids(text))

    def _guard(self, value: Any) -> Any:
        """The same value with every control-token string in it marked, so that _encode cuts it in two."""
        if isinstance(value, str):
            return self._control.sub(lambda start: start[0] + self._cut, value) if self._control else value
        if isinstance(value, list):
            return [self._guard(item) for item in value]
        if isinstance(value, dict):
            return {self._guard(key): self._guard(item) for key, item in value.items()}
        return value

    def _encode(self, text: str, max_tokens: int | None, param: str) -> list[int]:
        self._check_length(text, max_tokens, param)
        ids: list[int] = []
        for piece in text.split(self._cut):
            ids += self._ids(piece)
        return ids

    def _ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        # A batch of one, because `encode` holds the GIL for seconds on a long text and `encode_batch` does not.
        ids: list[int] = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids
        return ids

    def _check_length(self, text: str, max_tokens: int | None, param: str) -> None:
        if max_tokens is None or len(text) <= PROBE_CHARS_PER_TOKEN * max_tokens:
            return
        if (
            len(text) > self._longest_token_chars * max_tokens
            or self.count(text[: PROBE_CHARS_PER_TOKEN * max_tokens]) > max_tokens
        ):
            raise ContextLengthExceeded(
                f"The prompt is longer than the {max_tokens} tokens that the largest model here can read.", param=param
            )


def _chat_template(model_dir: Path, settings: Mapping[str, Any]) -> str:
    """The model's chat template, from its own file or the tokenizer's settings. Raises ValueError without one."""
    file = model_dir / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    if not isinstance(template, str):
        raise ValueError("there is neither chat_template.jinja nor a default chat_template in tokenizer_config.json")
    return template


def _template_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that templates may name (bos_token, …), as text."""
    tokens = {name: settings.get(name) for name in TEMPLATE_TOKENS}
    texts = {name: token["content"] if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if text is not None}


def _starts_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """A pattern for the first character of every place where one of the tokens begins, overlapping ones too."""
    rests: dict[str, list[str]] = {}
    for token in sorted(token for token in tokens if len(token) > 1):
        rests.setdefault(re.escape(token[0]), []).append(re.escape(token[1:]))
    return re.compile("|".join(f"{first}(?={'|'.join(rest)})" for first, rest in rests.items())) if rests else None


def _template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as templates expect it. Tool-call arguments are objects, {} where the model wrote no JSON object."""
    result = dict(message)
    if "tool_calls" in message:
        result["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _arguments(call["function"]["arguments"])}}
            for call in message["tool_calls"]
        ]
    return result


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _template_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with the keys and the order of vLLM's own model of it. Absent keys are null, except strict."""
    function = tool["function"]
    result = {key: function.get(key) for key in ("name", "description", "parameters")}
    if function.get("strict") is not None:
        result["strict"] = function["strict"]
    return {"type": tool["type"], "function": result}


def _developer_as_system(conversation: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join developer and system messages to one first system message, for templates without a developer role."""
    if not any(message["role"] == "developer" for message in conversation):
        return conversation
    system = [m["content"] for m in conversation if m["role"] in ("system", "developer")]
    rest = [m for m in conversation if m["role"] not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join(filter(None, system))}, *rest]


def _reasoning(effort: str | None) -> dict[str, Any]:
    return {} if effort is None else {"reasoning_effort": effort, "enable_thinking": effort != "none"}


def _chars(body: Mapping[str, Any]) -> int:
    """About how many characters there are to render. A tool counts as long, because its schema is."""
    if "messages" not in body:
        return len(body["prompt"])
    return INLINE_CHARS * len(body.get("tools", ())) + sum(
        len(message["content"]) + sum(len(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
        for message in body["messages"]
    )
