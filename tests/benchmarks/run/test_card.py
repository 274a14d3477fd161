"""A card names what can be named, and equal settings have one hash."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.run.card import config_hash, make_card, text

VALUES = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=5)


@given(VALUES)
def test_order_of_settings_does_not_change_their_hash(settings: dict[str, object]) -> None:
    assert config_hash(settings) == config_hash(dict(reversed(settings.items())))


@given(VALUES, VALUES)
def test_different_settings_have_different_hashes(one: dict[str, object], other: dict[str, object]) -> None:
    assert (config_hash(one) == config_hash(other)) == (one == other)


def test_card_has_every_fact_that_a_result_is_read_by() -> None:
    card = make_card({"rounds": 3}, {"model": None}, seed=7)
    assert {"at", "commit", "config_hash", "models", "machine", "versions", "seed"} == card.keys()
    assert card["versions"]["python"]
    shown = text(card)
    assert "machine.cores" in shown
    assert "models.model" in shown
