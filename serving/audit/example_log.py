"""A seeded log of requests and responses in OpenAI's format, to try the audit on.

Conversations of several tenants with their own system prompts, a daily cycle, several models, cached tokens as a
provider would report them, and a few failures. A line has about 2 KB.
"""

import random
from collections.abc import Iterator

import msgspec

MODELS = (("gpt-5.4", 0.45), ("gpt-5.4-mini", 0.35), ("claude-sonnet-4-5", 0.15), ("house-model-7b", 0.05))
ASKS = (
    ("classify", "Classify the sentiment of this review as positive or negative:"),
    ("summarize", "Summarize the following notes in three sentences:"),
    ("extract", "Extract all names and dates from this text:"),
    ("code", "Write a python function that handles this case:"),
    ("chat", "I have a question about my order:"),
)
TEXT = (
    "order delivery invoice refund broken screen please yesterday customer account payment address service thanks "
    "battery return parcel window kitchen morning answer number street manual update cable warranty colour"
)
WORDS = TEXT.split()
START_S = 1_772_366_400  # 2026-03-01 12:00 UTC
TENANTS = 40
OPEN_CONVERSATIONS = 400


def lines(requests: int, days: float, seed: int, unnamed: bool = False) -> Iterator[bytes]:
    """So many lines, the same ones for the same seed."""
    draw = random.Random(seed)  # noqa: S311 - an example, no secret
    systems = [" ".join(draw.choices(WORDS, k=60)) for _ in range(TENANTS)]
    models, weights = [model for model, _ in MODELS], [weight for _, weight in MODELS]
    encode = msgspec.json.Encoder().encode
    talks: list[tuple[int, str, str, list[dict[str, str]]]] = []
    gap_s, at_s = days * 86_400 / requests, float(START_S)
    for number in range(requests):
        hour = (at_s - START_S) / 3600 % 24
        at_s += draw.expovariate(1.0) * gap_s * (0.6 if 4 <= hour < 14 else 2.0)
        if len(talks) < OPEN_CONVERSATIONS or draw.random() < 0.4:
            tenant = min(int(draw.paretovariate(0.8)) - 1, TENANTS - 1)
            category, ask = draw.choice(ASKS)
            system = {"role": "system", "content": systems[tenant]}
            talk = (tenant, draw.choices(models, weights)[0], category, [system])
            place = len(talks) if len(talks) < OPEN_CONVERSATIONS else draw.randrange(len(talks))
            talks[place : place + 1] = [talk]
        else:
            place = draw.randrange(len(talks))
            talk = talks[place]
            ask = "And then:"
        tenant, model, category, messages = talk
        messages.append({"role": "user", "content": f"{ask} {' '.join(draw.choices(WORDS, k=draw.randint(5, 60)))}"})
        raw = encode(messages)
        input_tokens, output_tokens = len(raw) // 4, draw.randint(3, 120)
        cached = (len(messages) > 2) * (input_tokens * 3 // 4 // 128 * 128)
        answer = " ".join(draw.choices(WORDS, k=max(1, output_tokens // 2)))
        failed = draw.random() < 0.002
        row: dict[str, object] = {
            "timestamp": round(at_s, 3),
            "tenant": f"tenant-{tenant:02d}",
            "request": {"model": model, "messages": msgspec.Raw(raw)},
            "response": {"error": {"message": "overloaded"}}
            if failed
            else {
                "id": f"chatcmpl-{number}",
                "model": model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
                "usage": {
                    "prompt_tokens": input_tokens,
                    "completion_tokens": output_tokens,
                    "prompt_tokens_details": {"cached_tokens": cached},
                },
            },
        }
        if not unnamed:
            row["category"] = category
        yield encode(row) + b"\n"
        messages.append({"role": "assistant", "content": answer})
        if len(messages) > 9:
            talks.pop(place)
