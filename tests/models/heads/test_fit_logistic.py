"""The fit finds what a column is worth, in a category's own way only where its labels say so."""

import numpy as np
import pytest
from numpy.typing import NDArray

from models.heads.fit_logistic import fit_logistic
from routing.heads.logistic import Logistic

SIGNALS = np.array([0])


def fitted(n: int, slopes: tuple[float, ...], seed: int = 0) -> Logistic:
    """n rows a category, whose first column speaks for the label by its slope; the second column is noise."""
    rng = np.random.default_rng(seed)
    category = np.repeat(np.arange(len(slopes)), n)
    rows = rng.normal(size=(category.size, 2))
    p = 1 / (1 + np.exp(-np.array(slopes)[category] * rows[:, 0]))
    return fit_logistic(rows, (rng.random(category.size) < p)[:, None].astype(float), category, len(slopes), SIGNALS)


def slopes_of(model: Logistic) -> NDArray[np.float64]:
    return model.weights[:, 0, 0]


def test_what_speaks_for_the_label_weighs_most() -> None:
    weights = fitted(400, (2.0,)).weights[0, :, 0]
    assert weights[0] > 5 * abs(weights[1])


def test_categories_that_differ_get_weights_of_their_own() -> None:
    steep, flat, common = slopes_of(fitted(400, (3.0, 0.0)))
    assert steep > common > flat
    assert steep - flat > 1


def test_few_labels_of_a_category_leave_it_near_the_common_weight() -> None:
    many, few = (np.ptp(slopes_of(fitted(n, (3.0, 0.0)))[:2]) for n in (400, 8))
    assert few < many / 3


def test_column_without_own_weights_has_one_for_all() -> None:
    assert np.ptp(fitted(100, (2.0, 0.0)).weights[:, 1, 0]) == 0


def test_category_that_no_row_has_is_the_common_one() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 2))
    model = fit_logistic(rows, (rows[:, :1] > 0).astype(float), np.zeros(60, dtype=np.int64), 2, SIGNALS)
    assert model.weights[1] == pytest.approx(model.weights[-1])
    assert model.bias[1] == pytest.approx(model.bias[-1])
