"""The engine through its handle: what tier 1 writes, and what the gate gets to see of it."""

import json
from collections.abc import Callable

from serving.engine import RayTier1
from serving.tiers import Call
from tests.e2e.conftest import collect

QUESTION = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 24, "temperature": 0.0}


async def test_stream_carries_real_chunks_and_the_evidence_of_every_token(
    tier1: RayTier1, new_call: Callable[..., Call]
) -> None:
    call = new_call(QUESTION, stream=True)
    frames = await collect(tier1.draft(call))
    chunks = [json.loads(f.data) for f in frames if f.data]
    content = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert content == "".join(f.text for f in frames) != ""
    assert chunks[0]["id"] == f"chatcmpl-{call.request_id}"
    usage = frames[-1].usage
    assert usage is not None
    assert usage.input_tokens == len(call.prompt_token_ids)
    assert usage.output_tokens == sum(f.n_tokens for f in frames) == sum(len(f.logprobs) for f in frames)
