"""Read what tier 1 is trained on: chats with the answer to give (SFT), or with a better and a worse one (DPO).

A line is {"id", "category", "messages", "completion"}, or with "chosen" and "rejected" instead, as `models export`
writes them; or a task with the data of its program, as `benchmarks tasks export` writes them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from models.data.dedup import leaked
from models.errors import ModelsError
from routing.learning.labels import fold_of
from routing.records import Record

EVAL_FOLDS = 1000


class ExamplesInvalid(ModelsError):
    """A file of training examples cannot be read. The message names the file and the line."""


class Example(Record):
    """One conversation and how it should go on. completion: SFT; chosen and rejected: DPO."""

    id: str
    category: str
    messages: tuple[dict[str, str], ...] = Field(min_length=1)
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None

    @property
    def prompt(self) -> str:
        """What decides the split: the last message."""
        return self.messages[-1]["content"]


def read_examples(paths: Sequence[Path]) -> list[Example]:
    """The examples of some files, in order; tasks without one right answer are left out. Raises ExamplesInvalid."""
    found: list[Example] = []
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ExamplesInvalid(f"{path}: {error}") from error
        for number, line in enumerate(lines, start=1):
            try:
                example = example_of(json.loads(line))
            except (ValueError, KeyError, ValidationError) as error:
                raise ExamplesInvalid(f"{path}: line {number} is no example: {error}") from error
            if example is not None:
                found.append(example)
    if not found:
        raise ExamplesInvalid(f"{', '.join(map(str, paths))}: no example to train on")
    return found


def example_of(line: Mapping[str, Any]) -> Example | None:
    """The example of one line; None for a task whose program accepts more than one answer and names none."""
    if "verifier" not in line:
        return Example.model_validate(line)
    target = target_of(line["verifier"])
    if target is None:
        return None
    kind = line.get("kind", line["category"])
    return Example(id=line["id"], category=kind, messages=tuple(line["messages"]), completion=target)


def target_of(verifier: Mapping[str, Any]) -> str | None:
    """An answer that a task's program accepts; None where it only checks properties and none is named."""
    match verifier["kind"]:
        case "exact":
            return str(verifier["answers"][0])
        case "number":
            return f"{verifier['value']:g}" if verifier["value"] % 1 else str(int(verifier["value"]))
        case "json":
            return json.dumps(verifier["value"], ensure_ascii=False)
        case _:  # properties are checked; the generator may name one answer that has them
            answer = verifier.get("answer")
            return None if answer is None else str(answer)


def split_examples(examples: Sequence[Example], eval_ratio: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, eval); all examples of one question lie on the same side. eval_ratio: share of questions, 0..1."""
    cut = round(eval_ratio * EVAL_FOLDS)
    train: list[Example] = []
    held: list[Example] = []
    for example in examples:
        (held if fold_of(example.prompt, EVAL_FOLDS, seed) < cut else train).append(example)
    return train, held


def without(examples: Sequence[Example], evaluation: Sequence[str]) -> list[Example]:
    """The examples that ask nothing, exactly or nearly, that one of the evaluation prompts asks."""
    found = set(leaked([example.prompt for example in examples], evaluation))
    return [example for i, example in enumerate(examples) if i not in found]


def examples_sha256(examples: Iterable[Example]) -> str:
    """Hash of what was trained on, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(example.model_dump_json().encode() + b"\n")
    return digest.hexdigest()
