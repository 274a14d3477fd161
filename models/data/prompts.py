"""Prompts of evaluation sets, which no training set may hold."""

import json
from pathlib import Path

from models.errors import ModelsError


class EvaluationLeak(ModelsError):
    """Prompts of an evaluation set are in the export. The message names the set and the samples."""


def read_prompts(path: Path) -> list[str]:
    """The prompts of an evaluation set: `prompt`, or the last of `messages`, of each JSON line."""
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
        return [line["prompt"] if "prompt" in line else line["messages"][-1]["content"] for line in lines]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise EvaluationLeak(
            f"{path} cannot be read as an evaluation set, so no leak can be ruled out: {error!r}"
        ) from error
