"""From answers and ledger rows to pairs, strategies and the table; the strategies are serving's own decisions."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.tasks import strategies
from benchmarks.tasks.asking import Answer
from benchmarks.tasks.command import some
from benchmarks.tasks.pairs import join
from benchmarks.tasks.report import family_rows, read_panel, strategy_row
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Exact, Number, Task
from models.__main__ import main as models
from routing.heads.evidence import HeadKind
from routing.records import (
    Agreement,
    Api,
    Attempt,
    AttemptKind,
    AttemptOutcome,
    Decision,
    DecisionReason,
    RequestedModel,
    RequestFeatures,
    RequestOutcome,
    RequestRecord,
    Tier,
    Verdict,
)

RIGHT_BY_TIER1 = 0.55
COST = {AttemptKind.ROUTER: 1e-6, AttemptKind.DRAFT: 2e-6, AttemptKind.SAMPLE: 3e-6, AttemptKind.JUDGE: 4e-6}
FRONTIER_USD = 1e-4


def right(task: Task) -> str:
    verifier = task.verifier
    return str(int(verifier.value)) if isinstance(verifier, Number) else verifier.answers[0]  # type: ignore[union-attr]


def attempt(kind: AttemptKind, tier: Tier, usd: float) -> Attempt:
    return Attempt(
        kind=kind, tier=tier, provider="self", model="m", outcome=AttemptOutcome.USED,
        started_s=0, duration_s=1, cost_usd=usd,
    )  # fmt: skip


def stack(made: list[Task], seed: int) -> tuple[list[Answer], list[RequestRecord]]:
    """Answers of a stack whose tier 1 is right on half, and knows it; the frontier is always right."""
    rng = np.random.default_rng(seed)
    answers, rows = [], []
    for task in made:
        good = rng.random() < RIGHT_BY_TIER1
        sure = min(rng.normal(-0.1 if good else -1.2, 0.1), -0.001)
        for model, tier in (("tier1", Tier.TIER1), ("frontier", Tier.FRONTIER)):
            drafted = tier is Tier.TIER1
            request_id = f"{len(rows):032x}"
            output = right(task) if good or not drafted else "no idea"
            answers.append(Answer(task=task.id, model=model, request_id=request_id, output=output))
            kinds = COST.items() if drafted else ()
            rows.append(
                RequestRecord(
                    request_id=request_id, at="2026-11-22T00:00:00.000000+00:00", tenant="t", api=Api.CHAT,
                    requested_model=RequestedModel(model), served_tier=tier, stream=False,
                    outcome=RequestOutcome.OK, status=200, duration_s=1, config_hash="c",
                    features=RequestFeatures(category=task.category, input_tokens=9, n_messages=1),
                    decision=Decision(tier=tier, reason=DecisionReason.REQUESTED, p_router=0.5 if drafted else None),
                    verdict=Verdict(
                        accepted=True, mean_logprob=sure, worst_token_logprob=sure, p_judge_ok=0.5,
                        agreement=Agreement(n_samples=2, n_agree=2 * good, n_rival=2 - 2 * good),
                    ) if drafted else None,
                    attempts=tuple(attempt(kind, Tier.TIER1, usd) for kind, usd in kinds) if drafted
                    else (attempt(AttemptKind.FRONTIER, Tier.FRONTIER, FRONTIER_USD),),
                )
            )  # fmt: skip
    return answers, rows


def simple(split: Split, n: int) -> list[Task]:
    return [t for t in some(tasks(split), n, 0) if isinstance(t.verifier, Number | Exact)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything the commands write, from asking to calibrated heads."""
    folder = tmp_path_factory.mktemp("suite")
    for seed, (split, n) in enumerate(((Split.TRAIN, 20), (Split.CALIBRATION, 40), (Split.TEST, 12))):
        answers, rows = stack(simple(split, n), seed)
        (folder / f"{split}.answers").write_text("".join(a.model_dump_json() + "\n" for a in answers))
        (folder / f"{split}.ledger").write_text("".join(r.model_dump_json() + "\n" for r in rows))
        arguments = ["--answers", str(folder / f"{split}.answers"), "--ledger", str(folder / f"{split}.ledger")]
        out = ["--out", str(folder / f"{split}.jsonl")]
        assert main(["tasks", "pairs", "--split", split, *arguments, *out]) == 0
    artefact = str(folder / "artefact")
    for kind in ("router", "gate"):
        assert models([f"train-{kind}", "--pairs", str(folder / "train.jsonl"), "--out", artefact]) == 0
    for kind, more in (("gate", []), ("router", ["--draft-price", "0.1"])):
        pairs = ["--pairs", str(folder / "calibration.jsonl"), "--quality-target", "0.9"]
        assert models(["calibrate", "--artefact", artefact, "--kind", kind, "--together", *pairs, *more]) == 0
    return folder


def test_pairs_have_grades_from_programs_and_signals_from_the_ledger() -> None:
    made = simple(Split.TEST, 2)
    answers, rows = stack(made, 0)
    asked = join(made, answers, {row.request_id: row for row in rows})
    assert len(asked) == len(made)
    for one in asked:
        assert one.pair.frontier_quality == 1.0
        assert one.pair.p_judge_ok == 0.5
        assert one.pair.agreement is not None
        assert one.pair.tier1_quality == float(one.pair.agreement.n_agree == 2)
        assert one.cost_usd(AttemptKind.FRONTIER) == FRONTIER_USD
        assert one.cost_usd(AttemptKind.DRAFT) == COST[AttemptKind.DRAFT]


def test_answer_without_a_ledger_row_is_refused() -> None:
    made = simple(Split.TEST, 1)
    answers, _ = stack(made, 0)
    with pytest.raises(ValueError, match="not in the ledger"):
        join(made, answers, {})


def test_gate_that_knows_keeps_quality_at_fewer_calls_than_chance(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--answers", str(run / "test.answers"), "--ledger", str(run / "test.ledger")]
    capsys.readouterr()
    plots = ["--plot", str(run / "plots")]
    arguments = ["--split", "test", *files, "--artefact", str(run / "artefact"), "--quality-target", "0.9", *plots]
    assert main(["tasks", "report", *arguments]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["strategy"]: row for row in report["rows"]}
    both, random = rows["router + gate"], rows["random, same share"]
    assert both["frontier_share"] == pytest.approx(random["frontier_share"])
    assert both["accuracy"] > random["accuracy"] + 0.1
    assert both["of_frontier"] > 0.9
    assert rows["all tier 1"]["usd_per_1000"] == pytest.approx(1000 * COST[AttemptKind.DRAFT])
    assert rows["all frontier"]["usd_per_1000"] == pytest.approx(1000 * FRONTIER_USD)
    assert rows["gate only"]["usd_per_1000"] < rows["all frontier"]["usd_per_1000"]
    assert len(list((run / "plots").glob("*.png"))) == 2
    heads = report["heads"]
    for head in ("router", "gate"):
        assert 0 < heads[f"{head}_ece_floor"] < 0.5
        assert 0 < heads[f"{head}_ms_p50"] <= heads[f"{head}_ms_p99"]


def test_signals_are_paid_only_for_drafts_that_bought_them(run: Path) -> None:
    made = simple(Split.TEST, 12)
    answers, rows = stack(made, 2)
    asked = join(made, answers, {row.request_id: row for row in rows})
    gate = read_panel(run / "artefact", HeadKind.GATE)
    accepted, paid = strategies.gated(asked, gate, 0.9)
    assert set(np.round(paid / 1e-6).astype(int)) <= {0, 3, 7}
    assert 0 < accepted.mean() < 1
    data = strategies.columns(asked)
    row = strategy_row(strategies.Outcome("gate", accepted.astype(float), paid), data)
    assert row["bad_shown"] == pytest.approx(float((accepted * data.bad).mean()))


def test_unknown_price_makes_the_cost_unknown_not_zero() -> None:
    made = simple(Split.TEST, 1)
    answers, rows = stack(made, 0)
    dear = [
        r.model_copy(update={"attempts": tuple(a.model_copy(update={"cost_usd": None}) for a in r.attempts)})
        for r in rows
    ]
    data = strategies.columns(join(made, answers, {row.request_id: row for row in dear}))
    assert strategy_row(strategies.baselines(data, 0.5)[0], data)["usd_per_1000"] is None


def test_families_say_what_escalation_a_target_needs() -> None:
    made = simple(Split.TEST, 6)
    answers, rows = stack(made, 1)
    table = family_rows(join(made, answers, {row.request_id: row for row in rows}), 0.98)
    (total,) = [row for row in table if row["kind"] == "all"]
    assert total["tier1_of_frontier"] == pytest.approx(total["tier1"])
    assert total["escalate_at_least"] == pytest.approx(1 - total["tier1"] - 0.02)
    assert total["escalate_at_least"] < total["escalate_at_random"]
