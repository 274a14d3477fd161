import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routing import records as schema
from routing.cost import attempt as cost
from routing.gate import judge as gate
from routing.ladder import policy
from routing.records import ChoiceEvidence, DraftEvidence, Record, RejectReason, ToolCall, Usage, Verdict

RECORDS = {
    name: record
    for module in (schema, cost, gate, policy)
    for name, record in vars(module).items()
    if isinstance(record, type) and issubclass(record, Record) and record is not Record
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_misspelled_field_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError, match="misspelled"):
        RECORDS[name].model_validate({"misspelled": 1})


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_values(name: str) -> None:
    assert RECORDS[name].model_config["frozen"]


def test_a_record_cannot_be_changed() -> None:
    verdict = Verdict(accepted=True)
    with pytest.raises(ValidationError):
        verdict.accepted = False  # type: ignore[misc]


def test_a_negative_count_or_an_impossible_probability_is_an_error() -> None:
    with pytest.raises(ValidationError):
        Usage(input_tokens=-1, output_tokens=0)
    with pytest.raises(ValidationError):
        Verdict(accepted=True, p_accept=1.1)
    with pytest.raises(ValidationError):
        DraftEvidence(choices=(), p_judge_ok=-0.1)


@given(
    st.builds(
        ChoiceEvidence,
        text=st.text(st.characters(codec="utf-8")),
        finish_reason=st.none() | st.sampled_from(["stop", "length"]),
        tool_calls=st.lists(st.builds(ToolCall, name=st.just("f"), arguments=st.just("{}"))).map(tuple),
        token_logprobs=st.lists(st.floats(-50, 0)).map(tuple),
        output_tokens=st.integers(0, 9),
        watched=st.none() | st.lists(st.sampled_from(RejectReason)).map(tuple),
    )
)
def test_evidence_survives_json(evidence: ChoiceEvidence) -> None:
    assert ChoiceEvidence.model_validate_json(evidence.model_dump_json()) == evidence


def test_labels_of_metrics_come_from_closed_sets() -> None:
    for labels in (schema.RejectReason, schema.DecisionReason, schema.AttemptKind, schema.AttemptOutcome, schema.Tier):
        assert all(label.value == label.value.lower() for label in labels)
        assert len(labels) < 20
