"""Heads learn what the labels show, score one request as training scored many, and do so without their own labels."""

import numpy as np
import pytest

from models.heads.fit import ForestShape, TooFewPairs, evidence_of, fit_head, fit_linear, rows_of
from routing.heads.evidence import Evidence, HeadKind, Reads, structure_row, text_row
from routing.heads.head import Panel
from routing.learning.quality import apgr, auroc, quality_curve
from tests.models.graded import graded
from tests.models.signalled import signalled

SHAPE = ForestShape(n_trees=20)


def test_router_beats_random_on_prompts_it_has_not_seen() -> None:
    head = fit_head(HeadKind.ROUTER, "own", graded(400), SHAPE, seed=0).head
    test = graded(200, seed=1)
    gain = [head.score(evidence_of(p, HeadKind.ROUTER)).gain for p in test]
    value = apgr(quality_curve([-g for g in gain], [p.tier1_quality for p in test], [p.frontier_quality for p in test]))
    assert value is not None
    assert value > 0.6


def test_gate_finds_bad_drafts_and_further_answers_help() -> None:
    head = fit_head(HeadKind.GATE, "own", graded(300), SHAPE, seed=0).head
    assert [top.reads.n_answers for top in head.card.tops] == [0, 1, 3]
    test = graded(150, seed=1)
    scores = [head.score(evidence_of(p, HeadKind.GATE)) for p in test]
    assert {s.n_answers for s in scores} == {3}
    found = auroc([-s.p_draft_good for s in scores], [float(p.bad_draft) for p in test])
    assert found is not None
    assert found > 0.9


def test_gate_without_answers_uses_the_stage_that_needs_none() -> None:
    head = fit_head(HeadKind.GATE, "own", graded(150), SHAPE, seed=0).head
    assert head.score(Evidence("p", "law", draft="d")).n_answers == 0
    assert head.score(Evidence("p", "law", draft="d", other_answers=("1", "2"))).n_answers == 1


def test_one_request_is_scored_as_training_scored_many() -> None:
    pairs = graded(120)
    rows = rows_of(HeadKind.GATE, pairs, seed=0)
    linear, scores = fit_linear(rows, np.arange(len(pairs)))
    for i in (0, 7, 119):
        evidence = evidence_of(pairs[i], HeadKind.GATE)
        one = linear.score(text_row(HeadKind.GATE, evidence), structure_row(HeadKind.GATE, evidence), rows.category[i])
        # The text weights are stored in half precision.
        assert one == pytest.approx(scores[i], abs=2e-3)


def test_router_never_sees_draft_answers_or_grades() -> None:
    pair = graded(1)[0]
    assert evidence_of(pair, HeadKind.ROUTER) == Evidence(pair.prompt, pair.category)


def test_random_labels_look_random_out_of_fold() -> None:
    rng = np.random.default_rng(0)
    pairs = [p.model_copy(update={"tier1_quality": float(rng.random() < 0.5)}) for p in graded(400, drafts=False)]
    fitted = fit_head(HeadKind.ROUTER, "own", pairs, SHAPE, seed=0)
    found = auroc(fitted.out_of_fold[0][:, 1], [float(p.bad_draft) for p in pairs])
    assert found == pytest.approx(0.5, abs=0.1)


def test_category_without_labels_says_so_and_still_gets_a_probability() -> None:
    head = fit_head(HeadKind.ROUTER, "own", graded(100), SHAPE, seed=0).head
    scores = head.score(Evidence("translate this", "translate"))
    assert scores.n_labels == 0
    assert 0 <= scores.p_tier1_ok <= 1
    assert head.score(Evidence("a question of law", "law")).n_labels == 33


def test_words_learned_elsewhere_do_not_speak_for_a_category_without_labels() -> None:
    head = fit_head(HeadKind.ROUTER, "own", graded(300), SHAPE, seed=0).head
    learned, unknown = "name the integral twice", "name the quibbles twice"
    assert head.score(Evidence(learned, "sums")).gain > head.score(Evidence(unknown, "sums")).gain
    assert head.score(Evidence(learned, "new")).gain == head.score(Evidence(unknown, "new")).gain
    longer = head.score(Evidence(f"{unknown} " * 20, "new")).gain
    assert longer != head.score(Evidence(unknown, "new")).gain


def test_the_head_that_knows_the_category_is_asked() -> None:
    own = fit_head(HeadKind.ROUTER, "own", graded(90), SHAPE, seed=0).head
    other = fit_head(
        HeadKind.ROUTER, "other", [p.model_copy(update={"category": "x"}) for p in graded(60)], SHAPE, seed=0
    ).head
    panel = Panel(manifest=None, heads=[own, other])  # type: ignore[arg-type]
    assert panel.head_for("law") is own
    assert panel.head_for("x") is other
    assert panel.head_for("never seen") is other


@pytest.mark.parametrize("n", [0, 5])
def test_too_few_labels_are_refused(n: int) -> None:
    with pytest.raises(TooFewPairs):
        fit_head(HeadKind.ROUTER, "own", graded(n), SHAPE, seed=0)


def test_copies_of_one_question_are_refused() -> None:
    with pytest.raises(TooFewPairs, match="same question"):
        fit_head(HeadKind.ROUTER, "own", graded(1) * 40, SHAPE, seed=0)


def test_gate_reads_the_signals_that_every_pair_has_and_that_teach_it_something() -> None:
    """The verdict of these pairs tells little of what logprobs and samples leave open."""
    pairs = signalled(200)
    assert pairs[0].p_judge_ok is not None
    head = fit_head(HeadKind.GATE, "own", pairs, SHAPE, seed=0).head
    assert [top.reads for top in head.card.tops] == [
        Reads(),
        Reads(logprobs=True),
        Reads(logprobs=True, n_answers=2),
    ]
    test = signalled(150, seed=1)
    bad = [float(p.bad_draft) for p in test]
    found = [
        auroc([-head.score(evidence_of(p, HeadKind.GATE), top.reads).p_draft_good for p in test], bad) or 0.0
        for top in head.card.tops
    ]
    assert found[0] < 0.65
    assert 0.9 < found[1] < found[2]


def test_router_head_works_with_and_without_the_router_model() -> None:
    pair = signalled(1)[0]
    head = fit_head(HeadKind.ROUTER, "own", signalled(100), SHAPE, seed=0).head
    assert [top.reads.router for top in head.card.tops] == [False, True]
    assert head.stage(evidence_of(pair, HeadKind.ROUTER)) == 1
    assert head.stage(evidence_of(pair.model_copy(update={"p_router": None}), HeadKind.ROUTER)) == 0
    with pytest.raises(ValueError, match="reads"):
        head.score(Evidence("p", "chat"), Reads(router=True))


def test_sentence_that_asks_for_a_tier_changes_no_score() -> None:
    """Decisions by features only, of what the request is about."""
    head = fit_head(HeadKind.ROUTER, "own", graded(200), SHAPE, seed=0).head
    pair = graded(1, seed=3)[0]
    steered = pair.model_copy(update={"prompt": f"{pair.prompt}. Please route this to the frontier model."})
    plain = pair.model_copy(update={"prompt": f"{pair.prompt}."})
    assert head.score(evidence_of(steered, HeadKind.ROUTER)) == head.score(evidence_of(plain, HeadKind.ROUTER))


def test_verdict_that_knows_is_read_and_one_that_guesses_is_not() -> None:
    """Serving would buy it for every draft that is not clear without."""
    rng = np.random.default_rng(0)
    for knows in (True, False):
        said = [0.5 + 0.45 * (float(rng.random() < 0.5) if not knows else p.tier1_quality) for p in signalled(200)]
        pairs = [
            p.model_copy(update={"p_judge_ok": word, "agreement": None})
            for p, word in zip(signalled(200), said, strict=True)
        ]
        head = fit_head(HeadKind.GATE, "own", pairs, SHAPE, seed=0).head
        assert head.card.tops[-1].reads == Reads(logprobs=True, verdict=knows)


def test_head_of_few_labels_is_no_worse_than_its_best_signal() -> None:
    head = fit_head(HeadKind.GATE, "own", signalled(100), SHAPE, seed=0).head
    test = signalled(400, seed=1)
    bad = [float(p.bad_draft) for p in test]
    found = auroc([-head.score(evidence_of(p, HeadKind.GATE), Reads(logprobs=True)).p_draft_good for p in test], bad)
    alone = auroc([-(p.mean_logprob or 0.0) for p in test], bad)
    assert found is not None
    assert alone is not None
    assert found > alone - 0.005
