"""The allow-list: what is honoured, what is ignored, what is refused and by which name."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import TypeAdapter

from routing.records import RequestedModel
from serving.api.chat import ChatCompletionBody, read_chat
from serving.api.completions import CompletionBody, read_completion
from serving.api.fields import REFUSED, WireLimits, request_body_openapi
from serving.api.formats import requested_model, to_call_body
from serving.errors import InvalidRequest, NotFound

VOCAB_SIZE = 1000
LIMITS = WireLimits(max_choices=8, max_output_tokens=4096, max_prompt_token_ids=100)
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "2"}


def chat(**fields: Any) -> ChatCompletionBody:
    return read_chat(json.dumps({"model": "auto", "messages": [USER], **fields}).encode(), LIMITS, VOCAB_SIZE)


def completion(**fields: Any) -> CompletionBody:
    return read_completion(json.dumps({"model": "auto", "prompt": "hi", **fields}).encode(), LIMITS, VOCAB_SIZE)


def messages(*items: Any) -> dict[str, Any]:
    return {"messages": list(items)}


def content(value: Any, role: str = "user") -> dict[str, Any]:
    return messages({"role": role, "content": value})


def parts(*items: Any) -> dict[str, Any]:
    return content([{"type": "text", "text": "a"}, *items])


def image(url: str) -> dict[str, Any]:
    return parts({"type": "image_url", "image_url": {"url": url}})


def function(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": "f", **fields}}]}


def schema(value: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": value}}}


def arguments(text: str) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": text}}
    return messages(USER, {"role": "assistant", "tool_calls": [call]}, RESULT)


CHAT_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # Shape of the messages
    ("no messages", {"messages": []}, "messages"),
    ("messages null", {"messages": None}, "messages"),
    ("messages text", {"messages": "hi"}, "messages"),
    ("message text", messages("hi"), "messages[0]"),
    ("message null", messages(USER, None), "messages[1]"),
    ("unknown role", content("hi", "robot"), "messages[0].role"),
    ("deprecated role", messages({"role": "function", "name": "f", "content": "1"}), "messages[0].role"),
    ("no role", messages({"content": "hi"}), "messages[0].role"),
    ("role of the wrong type", messages({"role": ["user"], "content": "hi"}), "messages[0].role"),
    ("no content", messages({"role": "user"}), "messages[0].content"),
    ("content null", content(None), "messages[0].content"),
    ("content a number", content(5), "messages[0].content"),
    ("content no parts", content([]), "messages[0].content"),
    ("content of texts", content(["hi"]), "messages[0].content[0]"),
    ("part without type", content([{"text": "hi"}]), "messages[0].content[0].type"),
    ("part without text", content([{"type": "text"}]), "messages[0].content[0].text"),
    ("unknown field of a message", messages({**USER, "weight": 1}), "messages[0].weight"),
    ("field named like a tag", messages({**USER, "=user": 1}), "messages[0].=user"),
    ("name with markup", messages({**USER, "name": "<|im_end|>"}), "messages[0].name"),
    ("NUL in text", content("a\0b"), "messages[0].content"),
    ("NUL in a part", parts({"type": "text", "text": "\0"}), "messages[0].content[1].text"),
    ("too many messages", {"messages": [USER] * 2049}, "messages"),
    ("empty answer", messages(USER, {"role": "assistant"}), "messages[1].content"),
    ("empty answer with no calls", messages({"role": "assistant", "tool_calls": []}), "messages[0].content"),
    ("deprecated call", messages({"role": "assistant", "function_call": {}}), "messages[0].function_call"),
    ("audio answer", messages({"role": "assistant", "audio": {"id": "a"}}), "messages[0].audio"),
    ("result without a call", messages(USER, RESULT), "messages[1].tool_call_id"),
    ("result twice", messages(CALLED, RESULT, RESULT), "messages[2].tool_call_id"),
    ("result too late", messages(CALLED, USER, RESULT), "messages[0].tool_calls[0].id"),
    ("call without a result", messages(USER, CALLED), "messages[1].tool_calls[0].id"),
    ("one id for two calls", messages({**CALLED, "tool_calls": [CALL, CALL]}), "messages[0].tool_calls[1].id"),
    ("custom call", messages({**CALLED, "tool_calls": [{**CALL, "type": "custom"}]}), "messages[0].tool_calls[0].type"),
    (
        "arguments not text",
        messages({**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}),
        "messages[0].tool_calls[0].function.arguments",
    ),
    ("deep arguments", arguments("[" * 10_000), "messages[1].tool_calls[0].function.arguments"),
    ("long number in arguments", arguments("9" * 5_000), "messages[1].tool_calls[0].function.arguments"),
    ("surrogate in arguments", arguments('{"a":"\\ud800"}'), "messages[1].tool_calls[0].function.arguments"),
    # Number of choices
    ("n 0", {"n": 0}, "n"),
    ("n -1", {"n": -1}, "n"),
    ("n 9", {"n": 9}, "n"),
    ("n 10**9", {"n": 10**9}, "n"),
    ("n text", {"n": "1"}, "n"),
    ("n true", {"n": True}, "n"),
    ("n 1.0", {"n": 1.0}, "n"),
    ("best_of", {"best_of": 2}, "best_of"),
    # Limits on tokens
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens"),
    ("max_tokens -1", {"max_tokens": -1}, "max_tokens"),
    ("max_tokens 10**9", {"max_tokens": 10**9}, "max_tokens"),
    ("max_completion_tokens 0", {"max_completion_tokens": 0}, "max_completion_tokens"),
    ("max_completion_tokens 4097", {"max_completion_tokens": 4097}, "max_completion_tokens"),
    ("two limits", {"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
    ("min_tokens", {"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
    # Sampling
    ("temperature -0.1", {"temperature": -0.1}, "temperature"),
    ("temperature 2.1", {"temperature": 2.1}, "temperature"),
    ("temperature text", {"temperature": "1"}, "temperature"),
    ("top_p 1.1", {"top_p": 1.1}, "top_p"),
    ("presence_penalty 2.1", {"presence_penalty": 2.1}, "presence_penalty"),
    ("frequency_penalty -2.1", {"frequency_penalty": -2.1}, "frequency_penalty"),
    ("1,000 stops", {"stop": ["x"] * 1000}, "stop"),
    ("long stop", {"stop": "x" * 257}, "stop"),
    ("empty stop", {"stop": ""}, "stop"),
    ("stop a number", {"stop": 5}, "stop"),
    ("stop of numbers", {"stop": ["a", 5]}, "stop[1]"),
    ("seed beyond 64 bit", {"seed": 1e30}, "seed"),
    ("bias of a word", {"logit_bias": {"hello": 1}}, "logit_bias"),
    ("bias out of the vocabulary", {"logit_bias": {str(VOCAB_SIZE): 1}}, "logit_bias"),
    ("bias of a negative id", {"logit_bias": {"-1": 1}}, "logit_bias"),
    ("bias of another digit", {"logit_bias": {"٣": 1}}, "logit_bias"),
    ("bias of a long id", {"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ("bias too strong", {"logit_bias": {"5": 100.5}}, "logit_bias.5"),
    ("too many biases", {"logit_bias": {str(i): 0 for i in range(301)}}, "logit_bias"),
    ("top_logprobs 21", {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ("top_logprobs without logprobs", {"top_logprobs": 2}, "top_logprobs"),
    ("stream text", {"stream": "true"}, "stream"),
    ("stream_options without stream", {"stream_options": {"include_usage": True}}, "stream_options"),
    ("unknown stream option", {"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
    ("metadata not text", {"metadata": {"a": 1}}, "metadata.a"),
    ("unknown field", {"temprature": 1}, "temprature"),
    ("no model", {"model": None}, "model"),
    # Schemas
    ("recursive schema", schema({"$ref": "#"}), "response_format.json_schema.schema"),
    ("1 MB schema", schema({"description": "x" * 2**20}), "response_format.json_schema.schema"),
    ("regex bomb", schema({"pattern": "(((a{1,256}){1,256}){1,256}){1,256}"}), "response_format.json_schema.schema"),
    ("remote schema", function(parameters={"$ref": "http://127.0.0.1/x"}), "tools[0].function.parameters"),
    ("unknown format", {"response_format": {"type": "xml"}}, "response_format.type"),
    ("format text", {"response_format": "json_object"}, "response_format"),
    ("format without a schema", {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        "schema without a schema",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}},
        "response_format.json_schema.schema",
    ),
    # Images
    ("link-local image", image("http://169.254.169.254/latest/meta-data"), "messages[0].content[1].type"),
    ("file image", image("file:///etc/passwd"), "messages[0].content[1].type"),
    ("private image", image("http://10.0.0.1/x.png"), "messages[0].content[1].type"),
    ("shared address image", image("http://100.64.0.1/x.png"), "messages[0].content[1].type"),
    ("6to4 image", image("http://[2002:0a00:0001::]/x.png"), "messages[0].content[1].type"),
    ("NAT64 image", image("http://[64:ff9b::0a00:0001]/x.png"), "messages[0].content[1].type"),
    ("public image", image("https://example.org/x.png"), "messages[0].content[1].type"),
    ("image without a type", content([{"image_url": {"url": "http://x"}}]), "messages[0].content[0].type"),
    (
        "image beside the text",
        parts({"type": "text", "text": "a", "image_url": "http://x"}),
        "messages[0].content[1].image_url",
    ),
    (
        "audio",
        parts({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}),
        "messages[0].content[1].type",
    ),
    ("file", parts({"type": "file", "file": {"file_id": "f"}}), "messages[0].content[1].type"),
    ("video", parts({"type": "video_url", "video_url": {"url": "http://x"}}), "messages[0].content[1].type"),
    ("image in an answer", content([{"type": "image_url"}], "assistant"), "messages[0].content[0].type"),
    # Tools
    ("no tools", {"tools": []}, "tools"),
    ("custom tool", {"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ("tool without a function", {"tools": [{"type": "function"}]}, "tools[0].function"),
    ("name with a space", function(name="a b"), "tools[0].function.name"),
    ("name too long", function(name="a" * 65), "tools[0].function.name"),
    ("parameters text", function(parameters="{}"), "tools[0].function.parameters"),
    ("two tools of one name", {"tools": [TOOL, TOOL]}, "tools[1].function.name"),
    ("choice without tools", {"tool_choice": "auto"}, "tool_choice"),
    ("parallel without tools", {"parallel_tool_calls": True}, "parallel_tool_calls"),
    ("unknown choice", {"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
    ("choice a number", {"tools": [TOOL], "tool_choice": 1}, "tool_choice"),
    (
        "choice of an absent tool",
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
    ),
]


@pytest.mark.parametrize(("fields", "param"), [row[1:] for row in CHAT_REFUSED], ids=[row[0] for row in CHAT_REFUSED])
def test_bad_chat_body_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat(**fields)
    assert refused.value.param == param
    assert refused.value.http_status == 400
    assert len(refused.value.message) < 500


@pytest.mark.parametrize("name", sorted(REFUSED))
@pytest.mark.parametrize("value", [None, "x", {"a": 1}], ids=["null", "text", "object"])
def test_field_of_the_engine_or_of_our_configuration_is_refused_by_name(name: str, value: Any) -> None:
    for read in (chat, completion):
        with pytest.raises(InvalidRequest, match=f"'{name}'") as refused:
            read(**{name: value})
        assert refused.value.param == name


DANGEROUS = (
    "cache_salt priority prompt_embeds kv_transfer_params logprob_token_ids vllm_xargs chat_template guided_json"
)
DESTINATIONS = "api_base base_url user_config x-portkey-custom-host"


@pytest.mark.parametrize("name", [*DANGEROUS.split(), *DESTINATIONS.split()])
def test_dangerous_field_never_reaches_a_call_body(name: str) -> None:
    """Also when a future edit forgets the table of refused fields."""
    with pytest.raises(InvalidRequest):
        chat(**{name: "x"})
    assert name not in ChatCompletionBody.model_fields
    assert name not in CompletionBody.model_fields


COMPLETION_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("no prompt", {"prompt": None}, "prompt"),
    ("empty", {"prompt": ""}, "prompt"),
    ("empty list", {"prompt": []}, "prompt"),
    ("empty in a list", {"prompt": [""]}, "prompt"),
    ("empty ids in a list", {"prompt": [[]]}, "prompt"),
    ("two prompts", {"prompt": ["a", "b"]}, "prompt"),
    ("two prompts of ids", {"prompt": [[1], [2]]}, "prompt"),
    ("10**5 prompts", {"prompt": ["a"] * 10**5}, "prompt"),
    ("too many ids", {"prompt": [1] * 101}, "prompt"),
    ("id out of the vocabulary", {"prompt": [VOCAB_SIZE]}, "prompt"),
    ("negative id", {"prompt": [-1]}, "prompt"),
    ("mixed", {"prompt": [1, "a"]}, "prompt"),
    ("booleans", {"prompt": [True]}, "prompt"),
    ("nested too deep", {"prompt": [[["a"]]]}, "prompt"),
    ("object", {"prompt": {"text": "a"}}, "prompt"),
    ("NUL", {"prompt": "\0"}, "prompt"),
    ("NUL in a list", {"prompt": ["\0"]}, "prompt"),
    ("best_of 2", {"best_of": 2}, "best_of"),
    ("echo", {"echo": True}, "echo"),
    ("suffix", {"suffix": "x"}, "suffix"),
    ("logprobs 6", {"logprobs": 6}, "logprobs"),
    ("logprobs true", {"logprobs": True}, "logprobs"),
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens"),
    ("max_tokens 10**9", {"max_tokens": 10**9}, "max_tokens"),
    ("n 9", {"n": 9}, "n"),
    ("messages", {"messages": [USER]}, "messages"),
    ("response_format", {"response_format": {"type": "text"}}, "response_format"),
]


@pytest.mark.parametrize(
    ("fields", "param"), [row[1:] for row in COMPLETION_REFUSED], ids=[row[0] for row in COMPLETION_REFUSED]
)
def test_bad_completion_body_is_refused_by_the_name_of_its_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        completion(**fields)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "canonical"), [("a", "a"), (["a"], "a"), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), ([0], [0])]
)
def test_one_prompt_in_any_of_openais_ways(prompt: Any, canonical: Any) -> None:
    assert to_call_body(completion(prompt=prompt))["prompt"] == canonical


def test_completions_limit_is_always_explicit() -> None:
    """Providers differ in the default; OpenAI's is 16."""
    assert to_call_body(completion())["max_tokens"] == 16
    assert to_call_body(completion(max_tokens=5))["max_tokens"] == 5


def test_harmless_defaults_of_sdks_are_accepted() -> None:
    body = completion(best_of=1, echo=False, suffix=None, user="u", logprobs=None, stream=False)
    assert to_call_body(body) == {"prompt": "hi", "max_tokens": 16}


def test_ignored_fields_do_not_reach_a_call_body() -> None:
    body = chat(
        user="u",
        metadata={"category": "code"},
        store=True,
        service_tier="flex",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        safety_identifier="s",
        modalities=["text"],
        verbosity="medium",
        prediction={"type": "content", "content": "x"},
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
    )
    assert to_call_body(body) == {"messages": [USER]}
    assert body.metadata == {"category": "code"}
    assert body.stream
    assert body.stream_options is not None
    assert body.stream_options.include_usage


def test_null_is_absent() -> None:
    fields = dict.fromkeys(set(ChatCompletionBody.model_fields) - {"model", "messages"})
    assert to_call_body(chat(**fields)) == {"messages": [USER]}


def test_answer_can_be_sent_back_as_it_came() -> None:
    """Agents append the assistant message of the response, with every field the server put in it."""
    answer = {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "reasoning": None,
        "reasoning_content": "2+2",
        "tool_calls": [],
    }
    assert to_call_body(chat(**messages(USER, answer, USER)))["messages"][1] == {"role": "assistant", "content": "4"}


def test_canonical_form() -> None:
    body = chat(
        messages=[
            {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "q", "name": "bob"},
            {"role": "assistant", "content": None, "tool_calls": [{**CALL, "index": 0}]},
            RESULT,
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "refusal": "never"},
        ],
        max_tokens=7,
        top_p=0,
        stop="x",
        tools=[{"type": "function", "function": {"name": "f", "description": None, "parameters": {"type": "object"}}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
    )
    assert to_call_body(body) == {
        "messages": [
            {"role": "developer", "content": "a\nb"},
            {"role": "user", "content": "q", "name": "bob"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            RESULT,
            {"role": "assistant", "content": "no"},
            {"role": "assistant", "content": "never"},
        ],
        "max_completion_tokens": 7,
        "top_p": 1e-6,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
    }


def test_several_choices_at_temperature_zero_are_served() -> None:
    """OpenAI serves them, vLLM wants to sample for it."""
    assert to_call_body(chat(n=2, temperature=0))["temperature"] == 0.01
    assert to_call_body(chat(n=2, temperature=0.5))["temperature"] == 0.5
    assert to_call_body(chat(temperature=0))["temperature"] == 0


@pytest.mark.parametrize("text", ["not json", "", "[1]", '{"a":1}', '{"a":NaN}'])
def test_arguments_a_model_got_wrong_do_not_end_the_conversation(text: str) -> None:
    call = to_call_body(chat(**arguments(text)))["messages"][1]["tool_calls"][0]
    assert call["function"]["arguments"] == text


def test_control_characters_other_than_nul_are_text() -> None:
    assert to_call_body(chat(**content("\x1b[31mred\x07\r\n")))["messages"][0]["content"] == "\x1b[31mred\x07\r\n"


def test_unknown_model_is_not_found() -> None:
    assert requested_model(chat(model="auto:cheap")) is RequestedModel.AUTO_CHEAP
    with pytest.raises(NotFound) as refused:
        requested_model(chat(model="gpt-17"))
    assert refused.value.param == "model"


@pytest.mark.parametrize("model", [ChatCompletionBody, CompletionBody])
def test_openapi_names_every_field_without_references(model: type[ChatCompletionBody] | type[CompletionBody]) -> None:
    document = request_body_openapi(model)
    assert "$ref" not in json.dumps(document)
    assert "$defs" not in json.dumps(document)
    assert set(document["content"]["application/json"]["schema"]["properties"]) == set(model.model_fields)


# Generated bodies: everything we accept, and small damage to it.

Words = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
Names = st.text("abcXYZ019_-", min_size=1, max_size=8)
Texts = Words | st.lists(st.builds(lambda text: {"type": "text", "text": text}, Words), min_size=1, max_size=3)
Parameters = st.sampled_from(
    [
        {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]},
        {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}},
        {},
    ]
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for i in range(draw(st.integers(1, 4))):
        role = draw(st.sampled_from(["system", "developer", "user", "assistant", "calls"]))
        if role == "calls":
            ids = [f"c{i}-{j}" for j in range(draw(st.integers(1, 2)))]
            written = st.sampled_from(['{"x": "y"}', "{}", "oops", '{"x": {"y": [1, null]}}'])
            calls = [
                {"id": c, "type": "function", "function": {"name": draw(Names), "arguments": draw(written)}}
                for c in ids
            ]
            turns.append({"role": "assistant", "content": draw(st.none() | Texts), "tool_calls": calls})
            turns += [{"role": "tool", "tool_call_id": c, "content": draw(Texts)} for c in draw(st.permutations(ids))]
        else:
            turns.append({"role": role, "content": draw(Texts), **draw(optional(name=Names))})
    return turns


@st.composite
def chat_bodies(draw: st.DrawFn) -> dict[str, Any]:
    body: dict[str, Any] = {"model": "auto", "messages": draw(conversations())}
    body |= draw(
        optional(
            temperature=st.floats(0, 2) | st.integers(0, 2),
            top_p=st.floats(0, 1),
            n=st.integers(1, 8),
            stop=st.text("ab", min_size=1, max_size=3) | st.lists(st.text("ab", min_size=1), max_size=4),
            seed=st.integers(-(2**63), 2**63 - 1),
            presence_penalty=st.floats(-2, 2),
            logit_bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1).map(str), st.integers(-100, 100), max_size=3),
            stream=st.booleans(),
            user=Words,
            reasoning_effort=st.sampled_from(["none", "low", "high"]),
            response_format=st.just({"type": "json_object"})
            | st.builds(lambda s: {"type": "json_schema", "json_schema": {"name": "s", "schema": s}}, Parameters),
        )
    )
    body |= draw(st.just({}) | st.builds(lambda k: {"logprobs": True, "top_logprobs": k}, st.integers(0, 20)))
    body |= draw(optional(max_tokens=st.integers(1, 4096)) | optional(max_completion_tokens=st.integers(1, 4096)))
    if names := draw(st.lists(Names, unique=True, max_size=2)):
        body["tools"] = [
            {"type": "function", "function": {"name": n, **draw(optional(description=Words, parameters=Parameters))}}
            for n in names
        ]
        named = {"type": "function", "function": {"name": names[0]}}
        body |= draw(
            optional(
                tool_choice=st.sampled_from(["none", "auto", "required", named]), parallel_tool_calls=st.booleans()
            )
        )
    return body


@st.composite
def completion_bodies(draw: st.DrawFn) -> dict[str, Any]:
    text = Words.filter(bool)
    ids = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=5)
    prompt = draw(text | ids | st.one_of(text, ids).map(lambda one: [one]))
    return {"model": "auto", "prompt": prompt} | draw(
        optional(
            max_tokens=st.integers(1, 4096),
            logprobs=st.integers(0, 5),
            n=st.integers(1, 8),
            best_of=st.just(1),
            echo=st.just(False),
        )
    )


def serialized(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


@pytest.mark.slow
@given(body=chat_bodies())
def test_accepted_chat_body_is_one_to_openais_sdk(body: dict[str, Any]) -> None:
    call = to_call_body(read_chat(serialized(body), LIMITS, VOCAB_SIZE))
    TypeAdapter(chat_create_params.CompletionCreateParamsNonStreaming).validate_python({"model": "auto", **call})
    again = to_call_body(read_chat(serialized({"model": "auto", **call}), LIMITS, VOCAB_SIZE))
    assert again == call  # canonical: reading it again changes nothing


@given(body=completion_bodies())
def test_accepted_completion_body_is_one_to_openais_sdk(body: dict[str, Any]) -> None:
    call = to_call_body(read_completion(serialized(body), LIMITS, VOCAB_SIZE))
    TypeAdapter(completion_create_params.CompletionCreateParamsNonStreaming).validate_python({"model": "auto", **call})
    assert to_call_body(read_completion(serialized({"model": "auto", **call}), LIMITS, VOCAB_SIZE)) == call


@given(body=chat_bodies())
def test_accepted_chat_body_is_one_to_vllm(body: dict[str, Any]) -> None:
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    call = to_call_body(read_chat(serialized(body), LIMITS, VOCAB_SIZE))
    request = protocol.ChatCompletionRequest(**copy.deepcopy(call))
    assert request.model_extra in (None, {})
    params = request.to_sampling_params(16, {})
    assert params.top_p > 0
    assert params.n == call.get("n", 1)


@given(body=completion_bodies())
def test_accepted_completion_body_is_one_to_vllm(body: dict[str, Any]) -> None:
    protocol = pytest.importorskip("vllm.entrypoints.openai.completion.protocol")
    call = to_call_body(read_completion(serialized(body), LIMITS, VOCAB_SIZE))
    assert protocol.CompletionRequest(**copy.deepcopy(call)).prompt == call["prompt"]


Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
    | st.sampled_from(["user", "assistant", "tool", "text", "function", "=text", "json_schema", "auto"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "name", "function", "arguments", "id", "schema", "=user", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        node = pending.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        found += [(node, key) for key in keys]
        pending += [node[key] for key in keys]
    return found


@st.composite
def damaged(draw: st.DrawFn, bodies: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """A good body with one to three values replaced, removed or added."""
    body = copy.deepcopy(draw(bodies))
    for _ in range(draw(st.integers(1, 3))):
        if not (everywhere := places(body)):
            break
        node, key = draw(st.sampled_from(everywhere))
        kind = draw(st.sampled_from(["replace", "remove", "add"]))
        if kind == "replace":
            node[key] = draw(Json)
        elif kind == "remove":
            del node[key]
        elif isinstance(node, list):
            node.insert(key, draw(Json))
        else:
            node[draw(st.sampled_from(["x", "=text", "role", "type", "content"]))] = draw(Json)
    return body


def assert_read_or_refused_by_name(read: Any, body: dict[str, Any]) -> None:
    try:
        call = to_call_body(read(serialized(body), LIMITS, VOCAB_SIZE))
    except InvalidRequest as refused:
        param = refused.param
        json.dumps(refused.body()).encode()
    else:
        json.dumps(call)
        return
    assert isinstance(param, str)
    assert param


@pytest.mark.slow
@settings(max_examples=300)
@given(body=damaged(chat_bodies()))
def test_damaged_chat_body_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    assert_read_or_refused_by_name(read_chat, body)


@given(body=damaged(completion_bodies()))
def test_damaged_completion_body_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    assert_read_or_refused_by_name(read_completion, body)


@given(
    body=st.dictionaries(
        st.sampled_from(sorted(ChatCompletionBody.model_fields)) | st.text(max_size=3), Json, max_size=6
    )
)
def test_any_json_object_is_read_or_refused_by_name(body: dict[str, Any]) -> None:
    try:
        serialized(body).decode().encode()
    except UnicodeEncodeError:
        return
    for read in (read_chat, read_completion):
        try:
            read(serialized(body), LIMITS, VOCAB_SIZE)
        except InvalidRequest as refused:
            param = refused.param
        else:
            continue
        assert param is not None


def test_refusal_does_not_repeat_the_prompt() -> None:
    """Error texts are logged. What the caller wrote is not in them, nor in their causes."""
    with pytest.raises(InvalidRequest) as refused:
        chat(**messages({"role": "user", "content": "my secret", "x": "my secret"}), temperature="my secret")
    assert "secret" not in f"{refused.value.message} {refused.value.__cause__}"
