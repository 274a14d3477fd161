"""routing/replicas/key_table.py: behaves as a dict of 64-bit integers at a fraction of its size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from routing.replicas.key_table import KeyTable

TOP = 2**64 - 1
# Keys that crowd at one home, at the table's end and at its start, next to ordinary ones.
KEYS = st.one_of(st.integers(1, TOP), st.integers(1, 40), st.integers(TOP - 200, TOP))
VALUES = st.integers(1, TOP)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, VALUES),
        st.tuples(st.just("pop"), KEYS, st.none()),
        st.tuples(st.just("get"), KEYS, st.none()),
    ),
    max_size=400,
)


@given(STEPS)
def test_equals_a_dict_under_any_sequence_of_operations(steps: list[tuple[str, int, int | None]]) -> None:
    table, model = KeyTable(), dict[int, int]()
    for name, key, value in steps:
        if value is not None:
            assert table.put(key, value) == model.get(key, 0)
            model[key] = value
        elif name == "pop":
            assert table.pop(key) == model.pop(key, 0)
        assert table.get(key) == model.get(key, 0)
        assert len(table) == len(model)
    keys, values = table.items()
    assert dict(zip(keys.tolist(), values.tolist(), strict=True)) == model


@given(st.dictionaries(KEYS, st.integers(1, 15), max_size=20), st.lists(KEYS, max_size=10), st.integers(1, 15))
def test_narrow_tells_after_how_many_keys_each_bit_drops_out(
    values: dict[int, int], extra: list[int], bits: int
) -> None:
    table = KeyTable()
    for key, value in values.items():
        table.put(key, value)
    keys = [*values, *extra]
    ends = table.narrow(keys, bits)
    for bit in (1, 2, 4, 8):
        expected = next((depth for depth, key in enumerate(keys) if not values.get(key, 0) & bit), len(keys))
        assert [depth for dropped, depth in ends if dropped & bit] == ([expected] if bits & bit else [])


@given(st.dictionaries(KEYS, VALUES, max_size=300))
def test_replace_holds_exactly_the_new_entries(entries: dict[int, int]) -> None:
    table = KeyTable()
    table.put(77, 77)
    table.replace(np.array(list(entries), dtype=np.uint64), np.array(list(entries.values()), dtype=np.uint64))
    assert len(table) == len(entries)
    assert all(table.get(key) == value for key, value in entries.items())
    assert (77 in table) == (77 in entries)


def test_clear_gives_the_memory_back() -> None:
    table = KeyTable()
    empty_bytes = table.nbytes
    for key in range(1, 10_000):
        table.put(key << 50 | key, 1)
    assert table.nbytes > 20 * empty_bytes
    table.clear()
    assert len(table) == 0
    assert table.nbytes == empty_bytes
