"""`ask`: send one question to a running stack, print the answer and the path that the request took."""

import argparse
import json
import os
import sys

import httpx

DEFAULT_URL = "http://127.0.0.1:8000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The question, the model and where to ask."""
    parser.add_argument("question", help="the user message")
    parser.add_argument("--model", default="auto", help="auto, auto:cheap, auto:quality, tier1 or frontier")
    parser.add_argument("--url", default=DEFAULT_URL, help=f"where the stack listens ({DEFAULT_URL})")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens (256)")


def run(args: argparse.Namespace) -> int:
    """Send one chat completion over HTTP. The answer goes to standard output, the path to standard error."""
    body = {
        "model": args.model,
        "max_tokens": args.max_tokens,
        "messages": [{"role": "user", "content": args.question}],
    }
    headers = {"authorization": f"Bearer {key}"} if (key := os.environ.get("TIERWISE_API_KEY")) else {}
    try:
        reply = httpx.post(f"{args.url}/v1/chat/completions", json=body, headers=headers, timeout=600)
        answer = reply.json()
    except httpx.ConnectError:
        print(f"error: nothing listens at {args.url}; start the stack with: make serve", file=sys.stderr)
        return 1
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        print(f"error: no stack answers at {args.url}: {error}", file=sys.stderr)
        return 1
    if reply.is_error:
        print(f"error {reply.status_code}: {answer['error']['message']}", file=sys.stderr)
        return 1
    print(answer["choices"][0]["message"]["content"])
    print(f"\n{describe_path(answer)}", file=sys.stderr)
    return 0


def describe_path(answer: dict[str, object]) -> str:
    """The path that a request took, as lines: decision, verdict, attempts, cost."""
    facts = json.loads(json.dumps(answer["tierwise"]))
    p = facts["p_tier1_ok"]
    decision = f"{facts['decision']}" + (
        "" if p is None else f", p(tier 1 will do) {p:.2f} of {facts['threshold']:.2f}"
    )
    verdict = facts["verdict"]
    lines = [f"answered by {facts['tier']} ({answer['model']}); category {facts['category']}; decision: {decision}"]
    if verdict is not None:
        lines.append(f"draft {'accepted' if verdict['accepted'] else 'rejected: ' + ', '.join(verdict['reasons'])}")
    for attempt in facts["attempts"]:
        lines.append(
            f"  {attempt['kind']:<9}{attempt['outcome']:<10}{dollars(attempt['cost_usd']):>12}  {attempt['model']}"
        )
    lines.append(f"cost {dollars(facts['cost_usd'])}, at the frontier {dollars(facts['baseline_cost_usd'])}")
    return "\n".join(lines)


def dollars(value: float | None) -> str:
    """An amount in dollars, or "unknown"."""
    return "unknown" if value is None else f"${value:.6f}"
