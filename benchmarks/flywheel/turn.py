"""The steps of one turn, in order.

Labels are what both tiers, asked by name, said to questions of their own splits. Programs graded them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.flywheel.operator import Operator, Refused, serving
from benchmarks.tasks.asking import Answer
from benchmarks.tasks.command import some
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Task
from routing.learning.promotion import RefusalReason
from routing.records import RequestRecord

TRIAL, CANDIDATE = "tier1-lora-trial", "tier1-lora"
DRAFT_PRICE = 0.2  # of a draft, as a share of a frontier answer's; as the embedded heads were calibrated
STEPS = 9  # at most


@dataclass(frozen=True, slots=True)
class Plan:
    """What a turn is made with. Questions are so many of each kind."""

    profile: Path
    adapter: Path
    files: Path
    per_kind_test: int
    per_kind_labels: int
    quality_target: float
    margin: float
    seed: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen. rows: of the ledger by request id. after: None when nothing was promoted."""

    test: Sequence[Task]
    base: Sequence[Answer]
    adapter: Sequence[Answer]
    frontier: Sequence[Answer]
    before: Sequence[Answer]
    after: Sequence[Answer] | None
    rows: dict[str, RequestRecord]
    refused: tuple[str, ...]
    categories: tuple[str, ...]
    n_labels: int


def turn(plan: Plan) -> Turn:
    """Serve, label, retrain, judge, promote, serve again. Raises TurnFailed naming the step that did not work."""
    test, train, held = (
        some(tasks(split, plan.seed), n, 0)
        for split, n in (
            (Split.TEST, plan.per_kind_test),
            (Split.TRAIN, plan.per_kind_labels),
            (Split.CALIBRATION, plan.per_kind_labels),
        )
    )
    sections: dict[str, dict[str, object]] = {
        "tier1": {"lora": {"max_rank": 16, "folders": [str(plan.adapter.resolve().parent)]}},
        "policy": {"quality_target": plan.quality_target},  # the same before and after
    }
    with tqdm(total=STEPS, desc="flywheel", unit="step") as bar:
        bar.set_postfix_str("start the stack")
        with serving(plan.profile, plan.files, sections) as operator:
            return Steps(operator, plan, test, train, held, bar).run()


@dataclass
class Steps:
    """The turn in progress. splits: what is reported on, what heads learn from, what judges and calibrates."""

    operator: Operator
    plan: Plan
    test: Sequence[Task]
    train: Sequence[Task]
    held: Sequence[Task]
    bar: "tqdm[Any]"

    def run(self) -> Turn:
        """All steps."""
        do, plan = self.operator, self.plan
        before = self.ask("serve: auto as it is", self.test, "auto")
        base = self.ask("label: tier 1", [*self.test, *self.held], "tier1")
        frontier = self.ask("label: frontier", [*self.test, *self.held, *self.train], "frontier")
        # A trial on a stack that nobody uses yet; every signal of the adapter's drafts is asked for, to learn from.
        do.register(TRIAL, plan.adapter, settings=("gate.explore_rate=1",))
        self.must(do.promote(TRIAL, "--force", "trial"))
        adapter = self.ask("label: tier 1 with the adapter", [*self.test, *self.held, *self.train], "tier1")
        do.roll_back()
        labels = of([*self.train, *self.held], [*adapter, *frontier])
        graded = [
            str(do.write_grades(f"{name}-graded.jsonl", self.held, of(self.held, answers)))
            for name, answers in (("base", base), ("adapter", adapter))
        ]
        refused, categories = self.promote(labels, graded)
        after = self.ask("serve: auto again", self.test, "auto") if categories else None
        rows = do.booked([*before, *(after or [])])
        return Turn(
            self.test, of(self.test, base), of(self.test, adapter), of(self.test, frontier), before, after, rows,
            refused, categories, len(self.train) + len(self.held),
        )  # fmt: skip

    def promote(self, labels: Sequence[Answer], graded: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(refusals, categories it was released for): for all, else for those that nothing speaks against, else none.

        Of a category that the adapter is not released for the new heads have no label: the frontier answers there.
        """
        every = sorted({task.category for task in self.held})
        first = self.candidate(CANDIDATE, every, labels, graded)
        if first is None:
            return (), tuple(every)
        passing = [category for category in every if f"{RefusalReason.CATEGORY_WORSE}: {category}: " not in first.why]
        if not passing or len(passing) == len(every):
            return (first.why,), ()
        second = self.candidate(f"{CANDIDATE}-some", passing, labels, graded, "--categories", *passing)
        if second is None:
            return (first.why,), tuple(passing)
        return (first.why, second.why), ()

    def candidate(
        self, name: str, categories: Sequence[str], labels: Sequence[Answer], graded: Sequence[str], *options: str
    ) -> Refused | None:
        """Train heads on the adapter's drafts in these categories, register all as one, and ask for its promotion."""
        do, plan = self.operator, self.plan
        self.step("retrain router and gate")
        train, held = ([t for t in split if t.category in categories] for split in (self.train, self.held))
        heads = do.train_heads(
            name,
            do.write_pairs(f"{name}-train.jsonl", train, of(train, labels)),
            do.write_pairs(f"{name}-calibration.jsonl", held, of(held, labels)),
            plan.quality_target,
            DRAFT_PRICE,
        )
        do.register(name, plan.adapter, heads, (f"policy.quality_target={plan.quality_target}",))
        self.step("judge and promote")
        return do.promote(name, "--graded", *graded, "--margin", str(plan.margin), *options)

    def ask(self, what: str, asked: Sequence[Task], model: str) -> list[Answer]:
        """One step that asks the stack."""
        self.step(what)
        return self.operator.ask(asked, model)

    def step(self, what: str) -> None:
        """Show where the turn is."""
        self.bar.update()
        self.bar.set_postfix_str(what)

    def must(self, refused: Refused | None) -> None:
        """A forced promotion is refused for its files alone."""
        assert refused is None, refused


def of(asked: Sequence[Task], answers: Sequence[Answer]) -> list[Answer]:
    """The answers to these tasks."""
    ids = {task.id for task in asked}
    return [answer for answer in answers if answer.task in ids]
