"""Answers and ledger rows become graded pairs: what training reads, with every signal the stack had.

Grades come from the tasks' own programs, everything else from the ledger, by request id.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tasks.asking import Answer
from benchmarks.tasks.grading import grade
from benchmarks.tasks.task import Task
from routing.learning.labels import Pair
from routing.records import AttemptKind, RequestRecord
from routing.text.answers import answer_of


@dataclass(frozen=True)
class Asked:
    """One task with both tiers' answers and their ledger rows."""

    task: Task
    pair: Pair
    tier1: RequestRecord
    frontier: RequestRecord

    def cost_usd(self, kind: AttemptKind) -> float | None:
        """Dollars of all attempts of a kind. None when one of them has no known price."""
        row = self.frontier if kind is AttemptKind.FRONTIER else self.tier1
        costs = [a.cost_usd for a in row.attempts if a.kind is kind]
        return None if None in costs else sum(c for c in costs if c is not None)


def read_answers(paths: Iterable[Path]) -> list[Answer]:
    """What `run` wrote."""
    return [Answer.model_validate_json(line) for path in paths for line in path.read_text().splitlines()]


def read_ledger(path: Path) -> dict[str, RequestRecord]:
    """What `python -m serving ledger export` wrote, by request id."""
    rows = (RequestRecord.model_validate_json(line) for line in path.read_text().splitlines())
    return {row.request_id: row for row in rows}


def join(tasks: Sequence[Task], answers: Iterable[Answer], ledger: Mapping[str, RequestRecord]) -> list[Asked]:
    """The tasks that both tiers answered, in the order of the tasks. Raises ValueError for an answer without a row."""
    found: dict[tuple[str, str], tuple[Answer, RequestRecord]] = {}
    for answer in answers:
        if answer.request_id is not None:
            if answer.request_id not in ledger:
                raise ValueError(f"{answer.task}: request {answer.request_id} is not in the ledger")
            found[answer.task, answer.model] = answer, ledger[answer.request_id]
    return [
        as_asked(task, *found[task.id, "tier1"], *found[task.id, "frontier"])
        for task in tasks
        if (task.id, "tier1") in found and (task.id, "frontier") in found
    ]


def as_asked(task: Task, drafted: Answer, tier1: RequestRecord, answered: Answer, frontier: RequestRecord) -> Asked:
    """One pair. Signals that the stack was not told to ask for are None."""
    draft, verdict = drafted.output or "", tier1.verdict
    pair = Pair(
        id=task.id,
        category=tier1.features.category if tier1.features else task.category,
        prompt=task.prompt,
        tier1_quality=grade(task.verifier, draft),
        frontier_quality=grade(task.verifier, answered.output or ""),
        tier1_output=draft,
        frontier_output=answered.output,
        tier1_answer=answer_of(draft),
        p_router=tier1.decision.p_router if tier1.decision else None,
        mean_logprob=verdict.mean_logprob if verdict else None,
        worst_token_logprob=verdict.worst_token_logprob if verdict else None,
        p_judge_ok=verdict.p_judge_ok if verdict else None,
        agreement=verdict.agreement if verdict else None,
    )
    return Asked(task, pair, tier1, frontier)
