"""A grown forest scores in numpy what the library that grew it scores, and a broken one is refused."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor

from models.heads.fit import ForestShape, grow_forest
from routing.heads.forest import Forest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 5))
Y = np.column_stack([X[:, 0] > 0, X[:, 1] * X[:, 2]]).astype(float)
FOLD = RNG.integers(0, 3, 300)


def grown() -> Forest:
    return grow_forest(X, Y, FOLD, ForestShape(n_trees=20, min_leaf=5), seed=1)[0]


def test_numpy_walk_agrees_with_the_library() -> None:
    library = ExtraTreesRegressor(
        n_estimators=20, min_samples_leaf=5, max_features=0.5, bootstrap=True, random_state=1
    ).fit(X, Y)
    fresh = RNG.normal(size=(50, 5))
    assert np.allclose(grown().predict(fresh), library.predict(fresh), atol=1e-6)


def test_boosted_trees_count_for_half() -> None:
    shape = ForestShape(n_trees=20, min_leaf=5, n_boosted=15)
    both, held_out = grow_forest(X, Y, FOLD, shape, seed=1)
    fresh = RNG.normal(size=(50, 5))
    boosted = [
        GradientBoostingRegressor(
            n_estimators=15, subsample=0.6, max_features=0.4, min_samples_leaf=20, random_state=1
        ).fit(X, y)
        for y in Y.T
    ]
    expected = (grown().predict(fresh) + np.column_stack([b.predict(fresh) for b in boosted])) / 2
    assert np.allclose(both.predict(fresh), expected, atol=1e-5)
    assert held_out.shape == Y.shape


def test_intact_forest_passes_its_check() -> None:
    grown().check(n_features=5, n_targets=2)


def test_tree_that_runs_in_a_circle_is_refused() -> None:
    forest = grown()
    circle = forest.left.copy()
    circle[0, 0] = 0
    with pytest.raises(ValueError, match="does not end"):
        replace(forest, left=circle).check(5, 2)


def test_column_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        grown().check(n_features=2, n_targets=2)
