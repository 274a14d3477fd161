"""Trained heads at work: signals are bought in turn, booked, and only while they can change the ruling."""

from pathlib import Path

import pytest

from models.__main__ import main
from routing.records import AttemptKind, AttemptOutcome, DecisionReason, RejectReason
from serving.errors import RouterFailed
from tests.journey.conftest import StartGateway
from tests.journey.scripted import Draft
from tests.journey.upstream import ok
from tests.models.signalled import signalled

SURE, DOUBTFUL, HOPELESS = Draft(logprob=-0.02), Draft(logprob=-0.55), Draft(logprob=-2.5)


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Both heads, trained and calibrated by the commands."""
    folder = tmp_path_factory.mktemp("learned")
    for name, seed in (("train", 0), ("calibration", 1)):
        lines = "".join(pair.model_dump_json() + "\n" for pair in signalled(300, seed))
        (folder / f"{name}.jsonl").write_text(lines)
    out, pairs = str(folder / "artefact"), str(folder / "calibration.jsonl")
    for kind in ("router", "gate"):
        assert main([f"train-{kind}", "--pairs", str(folder / "train.jsonl"), "--out", out]) == 0
    common = [
        "calibrate",
        "--artefact",
        out,
        "--pairs",
        pairs,
        "--quality-target",
        "0.9",
        "0.95",
        "--signal-price",
        "0.1",
    ]
    assert main([*common, "--kind", "gate"]) == 0
    assert main([*common, "--kind", "router", "--draft-price", "0.1"]) == 0
    return out


@pytest.fixture
def learned(artefact: str) -> dict[str, dict[str, object]]:
    """The sections of a profile that uses it."""
    return {"policy": {"artefact": artefact, "quality_target": 0.95}, "gate": {"artefact": artefact}}


async def test_sure_draft_is_released_and_nothing_is_bought(start: StartGateway, learned: dict[str, object]) -> None:
    async with start(**learned) as g:
        g.tier1.script(SURE)
        await g.chat()
        row = await g.row()
        assert [a.kind for a in row.attempts] == [AttemptKind.ROUTER, AttemptKind.DRAFT]
        assert row.verdict is not None
        assert row.verdict.accepted
        assert row.verdict.p_accept is not None
        assert row.decision is not None
        assert row.decision.p_router == 0.9


async def test_hopeless_draft_is_rejected_and_nothing_is_bought(
    start: StartGateway, learned: dict[str, object]
) -> None:
    async with start(**learned) as g:
        g.tier1.script(HOPELESS)
        g.upstream.script(ok("the frontier answers"))
        reply = await g.chat()
        assert reply.json()["tierwise"]["tier"] == "frontier"
        row = await g.row()
        assert [a.kind for a in row.attempts] == [AttemptKind.ROUTER, AttemptKind.DRAFT, AttemptKind.FRONTIER]
        assert row.verdict is not None
        assert row.verdict.reasons == (RejectReason.P_ACCEPT,)


@pytest.mark.parametrize(("samples", "tier"), [(("a fine answer",) * 2, "tier1"), (("no", "none"), "frontier")])
async def test_doubtful_draft_is_judged_by_further_samples(
    start: StartGateway, learned: dict[str, object], samples: tuple[str, ...], tier: str
) -> None:
    async with start(**learned) as g:
        g.tier1.script(DOUBTFUL)
        g.tier1.samples = samples
        g.upstream.script(ok("the frontier answers"))
        assert (await g.chat()).json()["tierwise"]["tier"] == tier
        row = await g.row()
        sample = next(a for a in row.attempts if a.kind is AttemptKind.SAMPLE)
        assert sample.outcome is AttemptOutcome.USED
        assert sample.cost_usd is not None
        assert row.verdict is not None
        assert row.verdict.agreement is not None
        assert row.verdict.agreement.n_agree == (2 if tier == "tier1" else 0)


async def test_signal_that_cannot_be_had_sends_the_request_to_the_frontier(
    start: StartGateway, learned: dict[str, object]
) -> None:
    """Fails closed, and the failed attempt is booked."""
    async with start(**learned) as g:
        g.tier1.script(DOUBTFUL)
        g.tier1.samples = None
        g.upstream.script(ok("the frontier answers"))
        assert (await g.chat()).json()["tierwise"]["tier"] == "frontier"
        row = await g.row()
        assert next(a for a in row.attempts if a.kind is AttemptKind.SAMPLE).outcome is AttemptOutcome.FAILED


async def test_head_decides_alone_when_the_router_model_is_down(
    start: StartGateway, learned: dict[str, object]
) -> None:
    """A trained head needs no model."""
    async with start(**learned) as g:
        g.router.score_answer = RouterFailed("dead")
        g.tier1.script(SURE)
        assert (await g.chat()).json()["tierwise"]["tier"] == "tier1"
        row = await g.row()
        assert row.decision is not None
        assert row.decision.p_router is None
        assert row.decision.p_tier1_ok is not None


async def test_category_without_labels_goes_to_the_frontier(start: StartGateway, learned: dict[str, object]) -> None:
    async with start(**learned) as g:
        g.upstream.script(ok("the frontier answers"))
        await g.chat("Translate into French: good morning")
        row = await g.row()
        assert row.decision is not None
        assert row.decision.reason is DecisionReason.NO_LABELS
        assert AttemptKind.DRAFT not in [a.kind for a in row.attempts]


async def test_explored_request_has_every_signal_on_record(start: StartGateway) -> None:
    """What a gate learns from may not be chosen by a gate; also where tier 1 was asked for by name."""
    async with start(gate={"explore_rate": 1.0}) as g:
        g.tier1.samples = ("a fine answer", "another")
        assert (await g.chat(model="tier1")).json()["tierwise"]["tier"] == "tier1"
        row = await g.row()
        assert {a.kind for a in row.attempts} == {
            AttemptKind.ROUTER, AttemptKind.DRAFT, AttemptKind.JUDGE, AttemptKind.SAMPLE,
        }  # fmt: skip
        assert row.verdict is not None
        assert row.verdict.p_judge_ok == 0.9
        assert row.verdict.agreement is not None
        assert row.decision is not None
        assert row.decision.p_router == 0.9


async def test_dial_moves_along_the_calibrated_targets(start: StartGateway, learned: dict[str, object]) -> None:
    """auto:cheap keeps less of the frontier's quality, so it takes a draft that auto refuses to take unexamined."""
    async with start(**learned) as g:
        kinds = {}
        for number, model in enumerate(("auto", "auto:cheap")):
            g.tier1.script(DOUBTFUL)
            await g.chat(model=model)
            kinds[model] = [a.kind for a in (await g.row(number)).attempts]
        assert AttemptKind.SAMPLE in kinds["auto"]
        assert AttemptKind.SAMPLE not in kinds["auto:cheap"]


def test_folder_of_artefacts_holds_no_pickle(artefact: str) -> None:
    assert {path.suffix for path in Path(artefact).iterdir()} == {".json", ".safetensors"}
