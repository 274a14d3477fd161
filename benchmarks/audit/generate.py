"""`python -m benchmarks audit-log`: a seeded log of requests and responses in OpenAI's format, to measure the audit on.

Conversations of several tenants with their own system prompts, a daily cycle, several models, cached tokens as a
provider would report them, and a few failures; 2 KB a line.
"""

import argparse
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tqdm import tqdm

from benchmarks.audit.call import AuditError
from benchmarks.audit.send import send_all

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many requests, where to."""
    parser.add_argument("--requests", type=int, default=1_000_000, help="lines to write (1,000,000)")
    parser.add_argument("--days", type=float, default=7.0, help="the time they are spread over (7)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--unnamed", action="store_true", help="name no categories, so that the texts must tell them")
    parser.add_argument(
        "--send", metavar="URL", help="send them to a stack on this machine and log its answers instead"
    )
    parser.add_argument("--concurrency", type=int, default=4, help="requests under way with --send (4)")
    parser.add_argument("--max-tokens", type=int, default=24, help="of an answer with --send (24)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")


def run(args: argparse.Namespace) -> int:
    """Write the file; 0 when done, 2 when an option cannot be used."""
    if args.send is not None:
        rows = lines(args.requests, args.days, args.seed)
        try:
            send_all(rows, args.send.rstrip("/"), args.out, args.requests, args.concurrency, args.max_tokens)
        except AuditError as error:
            print(f"audit-log: {error}", file=sys.stderr)
            return 2
        return 0
    with args.out.open("wb") as out:
        for line in tqdm(lines(args.requests, args.days, args.seed, args.unnamed), total=args.requests, unit="req"):
            out.write(line)
    return 0


def lines(requests: int, days: float, seed: int, unnamed: bool = False) -> Iterator[bytes]:
    """So many lines, the same ones for the same seed."""
    draw = random.Random(seed)
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
