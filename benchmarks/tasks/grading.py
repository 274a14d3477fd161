"""Grade one answer by program: 1.0 or 0.0. Reads an answer as a careful program would, never generously."""

import json
import re
from typing import Any

from benchmarks.tasks.sandbox import returns_all
from benchmarks.tasks.task import Exact, Json, Listing, Number, Program, Verifier

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_FENCE = re.compile(r"```\w*\n(.*?)(?:```|$)", re.DOTALL)
_EDGE = " \t\n\r.,;:!\"'`*()[]"


def grade(verifier: Verifier, answer: str) -> float:
    """1.0 when the answer is right, else 0.0. Never raises for what a model wrote."""
    match verifier:
        case Exact():
            right = plain(answer) in {plain(a) for a in verifier.answers}
        case Number():
            found = _NUMBER.findall(answer)
            right = bool(found) and abs(float(found[-1].replace(",", "")) - verifier.value) < 1e-6
        case Json():
            right = same_json(answer, verifier.value)
        case Listing():
            right = listed(answer, verifier)
        case Program():
            right = returns_all(unfenced(answer), verifier.function, verifier.cases)
    return float(right)


def plain(answer: str) -> str:
    """Lower case, single spaces, no outer punctuation, no space around commas: "[Fig , Pear]." is "fig, pear"."""
    text = " ".join(answer.casefold().strip(_EDGE).split())
    return re.sub(r"\s*,\s*", ", ", text)


def unfenced(answer: str) -> str:
    """The inside of the first code fence, or the whole answer when it has none."""
    found = _FENCE.search(answer)
    return found[1] if found else answer


def same_json(answer: str, value: dict[str, Any]) -> bool:
    """Whether the answer parses to exactly this. Text compares without case and outer spaces."""
    try:
        return bool(folded(json.loads(unfenced(answer))) == folded(value))
    except (ValueError, RecursionError):
        return False


def folded(value: Any) -> Any:
    """JSON with every text in lower case and stripped. True stays apart from 1."""
    if isinstance(value, dict):
        return {k: folded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [folded(v) for v in value]
    return value.strip().casefold() if isinstance(value, str) else (type(value) is bool, value)


def listed(answer: str, wanted: Listing) -> bool:
    """Whether the answer is a list of the wanted length on one line, its items apart by the wanted mark alone."""
    items = [item.strip().casefold() for item in answer.strip().rstrip(".").split(wanted.separator)]
    fine = all(any(c.isalpha() for c in item) and not re.search(r"[\n;|/,]", item) for item in items)
    return fine and len(items) == wanted.n_items == len(set(items))
