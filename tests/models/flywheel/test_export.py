"""Exports: redacted, without duplicates, split by time, and never with a prompt of an evaluation set."""

import json
from pathlib import Path

import pytest

from models.__main__ import main
from models.data.prompts import EvaluationLeak
from models.flywheel.export import ExportKind, NothingToExport, SecretLeft, make_export, split_by_time
from models.heads.pairs import load_pairs
from models.tier1.data import read_examples
from routing.learning.samples import SampleSource
from serving.ledger.config import LedgerConfig
from serving.ledger.samples import SampleStore
from serving.ledger.store import Store
from tests.models.flywheel.samples import question, said, sample

SAMPLES = [sample(i, good=i % 3 > 0) for i in range(30)]


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/ledger.sqlite3"
    config = LedgerConfig(url=url)
    store = Store(config)
    store.migrate()
    store.dispose()
    lessons = SampleStore(config)
    lessons.put_samples(SAMPLES)
    lessons.put_feedback(said(1, None, correction="the corrected answer"))
    lessons.close()
    return url


@pytest.mark.parametrize("kind", list(ExportKind))
def test_command_writes_what_training_reads(
    kind: ExportKind, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", kind, "--ledger", ledger, "--out", str(tmp_path / "x")]) == 0
    report = json.loads(capsys.readouterr().out)
    files = [tmp_path / "x" / "train.jsonl", tmp_path / "x" / "heldout.jsonl"]
    if kind is ExportKind.ROUTER:
        train, held = (load_pairs(file) for file in files)
        latest = max(p.provenance.at for p in train if p.provenance)
        assert all(p.provenance.at > latest for p in held if p.provenance)
    else:
        train, held = ([*read_examples([file])] for file in files)  # type: ignore[misc]
    assert (len(train), len(held)) == (report["n_train"], report["n_heldout"])
    assert len(train) + len(held) == {"router": 30, "sft": 30, "dpo": 10}[kind]


def test_correction_is_the_target_before_the_frontiers_answer(ledger: str, tmp_path: Path) -> None:
    assert main(["export", "sft", "--ledger", ledger, "--out", str(tmp_path), "--heldout-ratio", "0"]) == 0
    targets = {e.id: e.completion for e in read_examples([tmp_path / "train.jsonl"])}
    assert targets[f"{1:032x}"] == "the corrected answer"
    assert targets[f"{2:032x}"] == "right indeed"


@pytest.mark.parametrize(
    "leak",
    [question(7), question(7).upper() + "!", question(7) + " please"],
    ids=["exact", "other case", "nearly"],
)
def test_prompt_of_an_evaluation_set_fails_the_export_by_name(
    leak: str, ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test prompt in training export."""
    held = tmp_path / "suite-test.jsonl"
    held.write_text(json.dumps({"messages": [{"role": "user", "content": leak}]}) + "\n")
    out = tmp_path / "out"
    assert main(["export", "sft", "--ledger", ledger, "--out", str(out), "--eval-set", str(held)]) == 1
    assert "suite-test.jsonl" in capsys.readouterr().err
    assert not out.exists()


def test_other_evaluation_prompts_are_no_leak() -> None:
    lines, _ = make_export(ExportKind.SFT, SAMPLES, [], {}, {"held": [question(i) for i in range(50, 80)]})
    assert len(lines) == 30


def test_unreadable_evaluation_set_is_no_licence(ledger: str, tmp_path: Path) -> None:
    """A leak that cannot be ruled out fails the export."""
    missing = str(tmp_path / "gone.jsonl")
    assert main(["export", "sft", "--ledger", ledger, "--out", str(tmp_path / "o"), "--eval-set", missing]) == 1


def test_duplicates_are_exported_once() -> None:
    twice = [sample(1), sample(2, messages=sample(1).messages), sample(3)]
    lines, report = make_export(ExportKind.ROUTER, twice, [], {}, {})
    assert (len(lines), report["n_unique"]) == (2, 2)


def test_secret_that_slipped_in_fails_the_export_and_is_not_repeated() -> None:
    bad = sample(1, frontier_output="write to dave@example.com")
    with pytest.raises(SecretLeft, match="EMAIL") as refused:
        make_export(ExportKind.SFT, [bad], [], {}, {})
    assert "dave" not in str(refused.value)


def test_gate_rejected_draft_is_the_worse_one_of_a_dpo_pair() -> None:
    ungraded = {"grader": None, "tier1_quality": None, "frontier_quality": None}
    escalated = sample(1, source=SampleSource.ESCALATION, tier1_output="bad", **ungraded)
    lines, _ = make_export(ExportKind.DPO, [escalated, sample(2, good=True)], [], {}, {})
    ((_, line),) = lines
    assert json.loads(line)["chosen"] == "right indeed"
    assert json.loads(line)["rejected"] == "bad"


def test_nothing_to_export_says_what_to_do() -> None:
    with pytest.raises(NothingToExport, match="learning"):
        make_export(ExportKind.DPO, [sample(1, good=True)], [], {}, {})


def test_what_was_asked_last_is_held_out() -> None:
    lines = [(f"2026-03-{day:02}", str(day)) for day in (5, 1, 3, 2, 4)]
    train, held = split_by_time(lines, 0.4)
    assert [text for _, text in train] == ["1", "2", "3"]
    assert [text for _, text in held] == ["4", "5"]
    assert leak_free(train, held)


def leak_free(train: list[tuple[str, str]], held: list[tuple[str, str]]) -> bool:
    return max(train)[0] < min(held)[0]


def test_evaluation_leak_is_an_error_of_its_own() -> None:
    with pytest.raises(EvaluationLeak, match="held"):
        make_export(ExportKind.SFT, SAMPLES, [], {}, {"held": [question(3)]})
