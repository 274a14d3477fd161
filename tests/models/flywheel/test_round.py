"""One round of the flywheel on a ledger of samples: it waits for labels, trains, promotes, and stops at poison."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from models.__main__ import main
from models.flywheel.registry import Registry
from routing.learning.samples import Sample
from serving.ledger.config import LedgerConfig
from serving.ledger.samples import SampleStore
from serving.ledger.store import Store
from tests.models.flywheel.samples import sample
from tests.models.graded import graded

N = 1500


def samples(n: int = N, seed: int = 5, shuffled: bool = False) -> list[Sample]:
    """Shadowed requests in the world of tests/models/graded.py."""
    pairs = graded(n, seed)
    grades = [(pair.tier1_quality, pair.frontier_quality) for pair in pairs]
    if shuffled:
        random.Random(3).shuffle(grades)
    return [
        sample(
            i,
            tenant=f"t{i % 3}",
            category=pair.category,
            messages=({"role": "user", "content": pair.prompt},),
            tier1_quality=t,
            frontier_quality=f,
        )
        for i, (pair, (t, f)) in enumerate(zip(pairs, grades, strict=True))
    ]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.sqlite3"


def keep(url: str, kept: list[Sample]) -> None:
    config = LedgerConfig(url=url)
    store = Store(config)
    store.migrate()
    store.dispose()
    lessons = SampleStore(config)
    lessons.put_samples(kept)
    lessons.close()


def once(url: str, registry: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    capsys.readouterr()
    command = ["flywheel", "once", "--ledger", url, "--registry", str(registry), "--quality-target", "0.9", *options]
    assert main(command) == 0
    done: dict[str, Any] = json.loads(capsys.readouterr().out)
    return done


def test_round_on_enough_labels_starts_a_canary_and_the_next_waits_for_more(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, samples())
    done = once(url, tmp_path / "r", capsys, "--margin", "0.1")
    assert done["labels"] == N
    assert "comparison" in done["candidate"], done["candidate"]
    assert done["candidate"]["comparison"]["worth"]["low"] > 0
    release = Registry(tmp_path / "r").release()
    assert release.canary is not None
    assert release.canary.overrides["policy"]["quality_target"] == 0.9
    assert main(["promote", "--finish", "--registry", str(tmp_path / "r")]) == 0
    again = once(url, tmp_path / "r", capsys)
    assert again["candidate"] == {"trained": False, "why": f"{N} labels; the next candidate needs {N + 100}"}


def test_shuffled_labels_are_trained_on_and_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(url, samples(shuffled=True))
    done = once(url, tmp_path / "r", capsys)
    assert "no_signal" in done["candidate"]["refused"]
    registry = Registry(tmp_path / "r")
    assert registry.release().canary is None
    assert registry.history()[-1].step == "refused"


def test_few_labels_train_nothing(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(url, samples(30))
    done = once(url, tmp_path / "r", capsys)
    assert done["candidate"] == {"trained": False, "why": "30 labels; the next candidate needs 300"}


def test_missing_ledger_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flywheel", "once", "--ledger", f"sqlite:///{tmp_path}/no.sqlite3", "--registry", str(tmp_path)]) == 1
    assert "no ledger at" in capsys.readouterr().err
