"""A prompt that asks what an earlier one asked is a duplicate, however it is spelled."""

from models.data.dedup import leaked, unique

PROMPT = "Please explain in a few sentences how a sailing boat can travel against the wind on a lake"


def test_first_of_equal_prompts_stays() -> None:
    assert unique(["a", "b", "c"], [PROMPT, PROMPT.upper(), "What is the capital of France?"]) == ["a", "c"]


def test_other_numbers_make_another_question() -> None:
    assert unique([1, 2], ["Add 3 and 4", "Add 3 and 5"]) == [1, 2]


def test_leaked_names_the_positions_of_prompts_in_an_evaluation_set() -> None:
    assert list(leaked(["What is the capital of France?", PROMPT], [PROMPT + "!"])) == [1]
