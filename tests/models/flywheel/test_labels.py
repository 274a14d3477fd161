"""Who grades, whom nobody believes, and how much one tenant may say."""

import pytest

from models.flywheel.labels import cap_tenants, grade, graded_pairs, matches, not_believed, tenant_hash
from routing.learning.labels import question_key
from routing.learning.samples import Grader, SampleSource
from tests.models.flywheel.samples import question, said, sample

UNGRADED = {"grader": None, "tier1_quality": None, "frontier_quality": None}
JSON = {"type": "json_object"}


def test_surest_grader_decides() -> None:
    references = {question_key(question(1)): "42"}
    judged = sample(1, good=True, tier1_output="It is 41", frontier_output="The answer: 42")
    assert grade(judged, said(1, 1), references) == (0.0, 1.0, Grader.REFERENCE)
    assert grade(judged, said(1, -1), {}) == (1.0, 1.0, Grader.PAIRWISE)
    formless = sample(1, response_format=JSON, tier1_output="no", frontier_output="{}", **UNGRADED)
    assert grade(formless, said(1, 1), {}) == (0.0, 1.0, Grader.VERIFIER)
    assert grade(sample(1, **UNGRADED), said(1, -1), {}) == (0.0, 1.0, Grader.FEEDBACK)
    assert grade(sample(1, **UNGRADED), said(1, None, correction="so"), {}) == (0.0, 1.0, Grader.FEEDBACK)
    assert grade(sample(1, **UNGRADED), None, {}) is None


def test_word_on_the_frontiers_answer_grades_no_draft() -> None:
    assert grade(sample(1, source=SampleSource.ESCALATION, **UNGRADED), said(1, 1), {}) is None


@pytest.mark.parametrize(
    ("output", "reference", "right"),
    [("42", "42", 1), ("So it is 42.", "42", 1), ("x\n$42.00", "42", 1), ("42 or 43", "42", 0), ("", "42", 0)],
)
def test_reference_is_met_by_the_answer_and_not_by_a_mention(output: str, reference: str, right: int) -> None:
    assert matches(output, reference) == right


def test_label_says_where_it_comes_from_and_names_no_tenant() -> None:
    (pair,) = graded_pairs([sample(1, tenant="Acme Ltd")], [])
    assert pair.provenance is not None
    assert (pair.provenance.request_id, pair.provenance.grader) == (pair.id, "pairwise")
    assert "Acme" not in pair.model_dump_json()


def test_tenant_that_praises_what_is_wrong_is_not_believed() -> None:
    """One tenant floods fake thumbs-up."""
    known = [sample(i, tenant="evil", good=False) for i in range(30)]
    unknown = [sample(100 + i, tenant="evil", **UNGRADED) for i in range(50)]
    honest = [sample(200 + i, tenant="good", good=i % 2 == 0) for i in range(30)]
    words = [said(i, 1, tenant="evil") for i in [*range(30), *range(100, 150)]]
    words += [said(200 + i, 1 if i % 2 == 0 else -1, tenant="good") for i in range(30)]
    assert not_believed([*known, *unknown, *honest], words) == {tenant_hash("evil"): (30, 30)}
    pairs = graded_pairs([*known, *unknown, *honest], words)
    assert [p for p in pairs if p.provenance and p.provenance.grader == "feedback"] == []


def test_few_honest_disagreements_are_no_poison() -> None:
    samples = [sample(i, good=i >= 4) for i in range(6)]
    assert not_believed(samples, [said(i, 1) for i in range(6)]) == {}


def test_flood_of_one_tenant_is_cut_to_a_few_times_its_peers() -> None:
    flood = [sample(i, tenant="evil") for i in range(100)]
    others = [sample(200 + i, tenant=f"t{i % 4}") for i in range(20)]
    kept, cut = cap_tenants(graded_pairs([*flood, *others], []))
    assert cut == {tenant_hash("evil"): 85}
    assert len(kept) == 35


def test_single_tenant_is_not_cut() -> None:
    pairs = graded_pairs([sample(i) for i in range(10)], [])
    assert cap_tenants(pairs) == (pairs, {})
