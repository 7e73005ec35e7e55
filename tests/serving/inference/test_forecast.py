"""Predicted waits are corrected by how earlier ones came out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapensemble.serving.inference.admission import MOST, Forecast


def test_at_first_and_after_predictions_that_came_true_it_believes_them() -> None:
    forecast = Forecast(1.0)
    assert forecast.corrected(0.8) == 0.8
    for _ in range(100):
        forecast.came_out(1.0, 1.0)
    assert forecast.corrected(0.8) == 0.8


def test_waits_that_took_longer_than_predicted_make_it_say_more() -> None:
    forecast = Forecast(1.0)
    for _ in range(200):
        forecast.came_out(1.0, 1.2)
    assert forecast.corrected(0.8) == pytest.approx(0.8 * 1.2, rel=0.01)


def test_waits_that_took_less_do_not_make_it_say_less() -> None:
    forecast = Forecast(1.0)
    for _ in range(200):
        forecast.came_out(1.0, 0.5)
    assert forecast.corrected(0.8) == 0.8


def test_nearly_no_wait_is_longer_than_it_says() -> None:
    rng = np.random.default_rng(0)
    forecast, longer = Forecast(1.0), []
    for waited in rng.normal(1.05, 0.06, 5000):
        longer.append(waited > forecast.corrected(1.0))
        forecast.came_out(1.0, waited)
    assert np.mean(longer[100:]) < 0.02


def test_after_a_bad_moment_it_believes_again() -> None:
    forecast = Forecast(1.0)
    for _ in range(20):
        forecast.came_out(0.5, 30.0)
    assert forecast.corrected(0.5) == 0.5 * MOST
    for _ in range(200):
        forecast.came_out(0.5, 0.5)
    assert forecast.corrected(0.5) == pytest.approx(0.5, rel=0.05)


def test_short_waits_say_nothing_of_long_ones() -> None:
    forecast = Forecast(1.0)
    for _ in range(200):
        forecast.came_out(0.01, 0.1)
    assert forecast.corrected(0.8) == 0.8


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 1e6)), max_size=50),
    st.floats(1e-3, 1e3) | st.just(float("inf")),
    st.floats(0, 1e3),
)
def test_it_never_says_less_nor_more_than_twice_as_much(
    waits: list[tuple[float, float]], max_wait_s: float, predicted_s: float
) -> None:
    forecast = Forecast(max_wait_s)
    for pair in waits:
        forecast.came_out(*pair)
    assert predicted_s <= forecast.corrected(predicted_s) <= MOST * predicted_s
