"""Fleet size for a load: textbook values, and what must hold for every load."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.audit.forecast.queueing import erlang_c, p_waits_longer, replicas_for


@pytest.mark.parametrize(
    ("replicas", "load", "p_waits"),
    [
        (1, 0.7, 0.7),  # one server: the share of time it is busy
        (2, 1.0, 1 / 3),  # two servers, half loaded: 1/3 by hand
        (10, 8.0, 0.4092),  # Erlang's table
    ],
)
def test_erlang_c_gives_the_textbook_values(replicas: int, load: float, p_waits: float) -> None:
    assert erlang_c(replicas, load) == pytest.approx(p_waits, abs=1e-4)


def test_overload_makes_everybody_wait() -> None:
    assert p_waits_longer(3, 3.0, 1.0, 60.0) == 1.0


@given(st.floats(0.001, 5_000), st.floats(0.01, 60), st.floats(0, 30), st.floats(0.0001, 0.9))
def test_fleet_is_the_smallest_that_keeps_the_promise(
    load: float, service_s: float, wait_s: float, late_ratio: float
) -> None:
    replicas = replicas_for(load, service_s, wait_s, late_ratio)
    assert p_waits_longer(replicas, load, service_s, wait_s) <= late_ratio
    assert replicas == 1 or p_waits_longer(replicas - 1, load, service_s, wait_s) > late_ratio


def test_no_load_needs_no_replica() -> None:
    assert replicas_for(0.0, 1.0, 1.0, 0.01) == 0


def test_absurd_load_is_an_error_that_asks_about_units() -> None:
    with pytest.raises(ValueError, match="unit"):
        replicas_for(1e9, 1.0, 1.0, 0.01)
