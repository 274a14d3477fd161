"""The promotion gate on trained heads: what is better passes, and each kind of bad candidate is refused by its name."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from models.__main__ import main
from models.flywheel.candidate import judge_adapter, judge_head
from models.flywheel.refused import Refused
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry, sha256
from models.heads.calibrate import add_arguments, run
from models.heads.fit import ForestShape
from models.heads.pairs import data_sha256
from models.heads.train_panel import train_panel
from routing.heads.evidence import HeadKind
from routing.learning.labels import Pair
from routing.learning.promotion import Margins, RefusalReason
from tests.models.graded import graded

TRAIN, FIT, HELDOUT = graded(500, seed=1), graded(400, seed=2), graded(400, seed=3)
MARGINS = Margins(n_resamples=300)
SHAPE = ForestShape(n_trees=20)


def trained(folder: Path, pairs: Sequence[Pair], fit: Sequence[Pair]) -> Path:
    """A calibrated router head."""
    train_panel(HeadKind.ROUTER, [("test", pairs)], SHAPE, folder, seed=0)
    file = folder.parent / f"{folder.name}-fit.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in fit))
    import argparse

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(["--artefact", str(folder), "--pairs", str(file), "--quality-target", "0.9"]))
    return folder


def shuffled(pairs: Sequence[Pair]) -> list[Pair]:
    """The same prompts with the grades of others."""
    grades = [(pair.tier1_quality, pair.frontier_quality) for pair in pairs]
    random.Random(7).shuffle(grades)
    return [
        pair.model_copy(update={"tier1_quality": t, "frontier_quality": f})
        for pair, (t, f) in zip(pairs, grades, strict=True)
    ]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("heads")
    return {
        "good": trained(root / "good", TRAIN, FIT),
        "shuffled": trained(root / "shuffled", shuffled(TRAIN), shuffled(FIT)),
    }


@pytest.fixture
def registry(tmp_path: Path, heads: dict[str, Path]) -> Registry:
    registry = Registry(tmp_path / "registry")
    for name, folder in heads.items():
        registry.add(folder, manifest(name))
    return registry


def manifest(name: str, **changed: object) -> ArtefactManifest:
    fields = {"name": name, "kind": "router", "at": "2026-03-01T00:00:00+00:00", "data_sha256": data_sha256(TRAIN)}
    return ArtefactManifest.model_validate({**fields, **changed})


def refusal(registry: Registry, name: str, heldout: Sequence[Pair] = HELDOUT) -> Refused:
    with pytest.raises(Refused) as refused:
        judge_head(registry, name, heldout, MARGINS)
    return refused.value


def test_head_that_learned_is_better_than_any_constant(registry: Registry) -> None:
    comparison = judge_head(registry, "good", HELDOUT, MARGINS)
    assert comparison.worth.low is not None
    assert comparison.worth.low > 0
    assert comparison.auroc is not None


def test_shuffled_labels_are_refused_by_name(registry: Registry) -> None:
    assert RefusalReason.NO_SIGNAL in refusal(registry, "shuffled").reasons


def test_held_out_prompt_in_the_training_data_is_refused_by_name(registry: Registry) -> None:
    assert refusal(registry, "good", [*HELDOUT, TRAIN[17]]).reasons == (RefusalReason.LEAKED,)


def test_poisoned_labels_are_refused_by_name(registry: Registry, heads: dict[str, Path]) -> None:
    registry.add(heads["good"], manifest("poisoned", not_believed=("a1b2",)))
    refused = refusal(registry, "poisoned")
    assert refused.reasons == (RefusalReason.POISONED,)
    assert "a1b2" in str(refused)


def test_file_that_changed_is_refused_by_name(registry: Registry) -> None:
    file = registry.folder("good") / "router.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert refusal(registry, "good").reasons == (RefusalReason.WRONG_HASH,)


def test_pickle_is_refused_by_name_in_and_out_of_the_registry(registry: Registry, heads: dict[str, Path]) -> None:
    (registry.folder("good") / "weights.pkl").write_bytes(b"\x80\x04.")
    assert refusal(registry, "good").reasons == (RefusalReason.PICKLE,)
    evil = registry.root / "evil"
    evil.mkdir()
    (evil / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(Refused) as refused:
        registry.add(evil, manifest("evil"))
    assert refused.value.reasons == (RefusalReason.PICKLE,)


def test_other_label_set_is_refused_by_name(registry: Registry, heads: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in heads["good"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    doc = json.loads((other / "router.json").read_text())
    doc["label_set"] = ["bad_draft", "gain"]
    (other / "router.json").write_text(json.dumps(doc))
    registry.add(other, manifest("other"))
    assert refusal(registry, "other").reasons == (RefusalReason.WRONG_LABELS,)


def test_what_is_not_there_is_no_artefact(registry: Registry) -> None:
    assert refusal(registry, "nothing").reasons == (RefusalReason.NOT_AN_ARTEFACT,)


def test_command_promotes_the_good_and_puts_the_refusal_of_the_bad_on_record(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(pair.model_dump_json() + "\n" for pair in HELDOUT))
    common = ["--registry", str(registry.root)]
    assert main(["promote", "shuffled", "--pairs", str(heldout), *common]) == 1
    assert "refused: no_signal" in capsys.readouterr().err
    assert main(["promote", "good", "--pairs", str(heldout), *common]) == 0
    release = registry.release()
    assert release.canary is not None
    assert release.canary.overrides["policy"]["artefact"] == str(registry.folder("good").resolve())
    assert release.canary_ratio == 0.1
    assert main(["promote", "--finish", *common]) == 0
    assert registry.release().stable.artefacts == {"router": "good"}
    assert main(["rollback", *common]) == 0
    assert registry.release().stable.artefacts == {}
    capsys.readouterr()
    assert main(["history", *common]) == 0
    steps = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert steps == ["added", "added", "refused", "canary", "promoted", "rolled_back"]


class TestAdapter:
    @pytest.fixture
    def adapter(self, registry: Registry, tmp_path: Path) -> Registry:
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        registry.add(folder, manifest("lora", kind=ArtefactKind.ADAPTER))
        return registry

    def test_adapter_that_answers_better_passes_and_a_worse_category_does_not(self, adapter: Registry) -> None:
        ids = [f"t{i}" for i in range(200)]
        categories = {i: "ab"[n % 2] for n, i in enumerate(ids)}
        base = {i: float(n % 4 == 0) for n, i in enumerate(ids)}
        better = dict.fromkeys(ids, 1.0)
        assert judge_adapter(adapter, "lora", base, better, categories, MARGINS).worth.value == 0.75
        lost_b = {i: 1.0 if categories[i] == "a" else 0.0 for i in ids}
        spoilt = {**base, **{i: 1.0 for i in ids if categories[i] == "b"}}
        with pytest.raises(Refused) as refused:
            judge_adapter(adapter, "lora", spoilt, lost_b, categories, MARGINS)
        assert RefusalReason.CATEGORY_WORSE in refused.value.reasons

    def graded(self, tmp_path: Path, b_after: float) -> list[str]:
        """Files of grades: the adapter turns category a from wrong to right, and b from half right to `b_after`."""
        files = [tmp_path / "base.jsonl", tmp_path / "lora.jsonl"]
        for file, qualities in zip(files, ((0.0, 0.5), (1.0, b_after)), strict=True):
            lines = [{"id": f"t{i}", "category": "ab"[i % 2], "quality": qualities[i % 2]} for i in range(300)]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [str(file) for file in files]

    def test_better_adapter_gets_its_share_of_every_category(self, adapter: Registry, tmp_path: Path) -> None:
        common = ["promote", "lora", "--registry", str(adapter.root)]
        assert main([*common, "--graded", *self.graded(tmp_path, 0.5)]) == 0
        canary = adapter.release().canary
        assert canary is not None
        folder = str(adapter.folder("lora").resolve())
        assert canary.overrides["policy"] == {"adapters": {"lora": folder}, "default_adapter": "lora"}

    def test_adapter_that_spoils_a_category_may_still_serve_the_others(
        self, adapter: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        common = ["promote", "lora", "--registry", str(adapter.root), "--graded", *self.graded(tmp_path, 0.0)]
        assert main(common) != 0
        assert "category_worse" in capsys.readouterr().err
        assert main([*common, "--categories", "a"]) == 0
        canary = adapter.release().canary
        assert canary is not None
        assert canary.overrides["policy"]["categories"] == {"a": {"adapter": "lora"}}
        assert "default_adapter" not in canary.overrides["policy"]

    def test_grades_of_other_tasks_are_no_comparison(self, adapter: Registry) -> None:
        with pytest.raises(Refused) as refused:
            judge_adapter(adapter, "lora", {"a": 1.0}, {"b": 1.0}, {"a": "x", "b": "x"}, MARGINS)
        assert refused.value.reasons == (RefusalReason.TOO_FEW,)


def test_every_file_of_an_artefact_is_hashed(registry: Registry) -> None:
    for name, expected in registry.verified("good").files.items():
        assert sha256(registry.folder("good") / name) == expected
