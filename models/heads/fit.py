"""Fit the heads of router and gate on graded pairs, in seconds to minutes on one CPU core.

Every probability and every metric comes from scores that did not see their own label: folds are split by question for
the linear stage, and the forest reports its out-of-bag predictions over those.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.ensemble import ExtraTreesRegressor, GradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.tree._tree import Tree

from models.errors import ModelsError
from models.heads.fit_logistic import fit_logistic
from routing.heads.calibration import fit_calibration, log_odds
from routing.heads.evidence import (
    Evidence,
    Floats,
    Floats32,
    HeadKind,
    Reads,
    evidence_of,
    signals_row,
    structure_row,
    text_row,
    texts_of,
)
from routing.heads.forest import Forest
from routing.heads.head import N_FAMILIES, Head, Linear, dense_row, labels_of, scale_structure, shares_of
from routing.heads.logistic import Logistic
from routing.heads.manifest import LABEL_SET, HeadCard, TopCard
from routing.learning.labels import Pair, fold_of
from routing.learning.quality import apgr, quality_curve
from routing.text.ngrams import N_BUCKETS
from routing.text.structure import PROMPT_FEATURES

log = logging.getLogger(__name__)

N_FOLDS = 5
FOREST_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
GATE_WEIGHTS = ((0.5, 0.5), (0.75, 0.25), (1.0, 0.0), (0.5, 0.25), (0.5, 0.0))  # of forest and logistic model
WORTH_A_FOREST = 0.003  # APGR; half the standard error of a five-fold mean on 8,000 pairs
MIN_PAIRS = 20  # fewer cannot fill five folds; the rule of thumb for a useful head is hundreds
MIN_DOCUMENTS = 2  # a word seen in one prompt only says which prompt it was
RIDGE_STRENGTH = 30.0  # 20 to 40 measured alike on four sets; see benchmarks/LOG.md
MOST = 0.8  # of the pairs must have what a stage reads; the stage is fitted on those
RATE_PRIOR_LABELS = 20.0  # labels of a category that weigh as much as the mean over all


class TooFewPairs(ModelsError):
    """Not enough labels to fit anything."""


@dataclass(frozen=True)
class ForestShape:
    """How the second stage is grown."""

    n_trees: int = 120
    min_leaf: int = 10
    feature_ratio: float = 0.5
    n_boosted: int = 0  # trees of gradient boosting per target, averaged half and half with the extra trees


@dataclass(frozen=True)
class Fitted:
    """A head with what it predicted out of fold, shape (n, n_targets), by number of its second stage."""

    head: Head
    out_of_fold: Mapping[int, Floats]


@dataclass(frozen=True)
class Rows:
    """Pairs turned into numbers once; every fold takes slices."""

    pairs: Sequence[Pair]
    evidence: Sequence[Evidence]
    counts: Sequence[sparse.csr_matrix]
    structure: Floats
    labels: Floats
    categories: tuple[str, ...]
    category: NDArray[np.int64]
    fold: NDArray[np.int64] = field(repr=False)


def rows_of(kind: HeadKind, pairs: Sequence[Pair], seed: int) -> Rows:
    """Features and labels of pairs. Raises TooFewPairs."""
    if len(pairs) < MIN_PAIRS:
        raise TooFewPairs(f"{len(pairs)} graded pairs; a head needs {MIN_PAIRS} at the very least")
    evidence = [evidence_of(pair, kind) for pair in pairs]
    text = [text_row(kind, e) for e in evidence]
    categories = tuple(sorted({pair.category for pair in pairs}))
    return Rows(
        pairs=pairs,
        evidence=evidence,
        counts=[_sparse([row[i] for row in text]) for i in range(len(texts_of(kind, evidence[0])) * N_FAMILIES)],
        structure=np.array([structure_row(kind, e) for e in evidence]),
        labels=np.array([[pair.gain, float(pair.bad_draft)] for pair in pairs]),
        categories=categories,
        category=np.array([categories.index(pair.category) for pair in pairs]),
        fold=np.array([fold_of(pair.prompt, N_FOLDS, seed) for pair in pairs]),
    )


def _sparse(rows: Sequence[tuple[NDArray[np.int64], Floats32]]) -> sparse.csr_matrix:
    ends = np.cumsum([0, *(len(buckets) for buckets, _ in rows)])
    columns = np.concatenate([buckets for buckets, _ in rows])
    values = np.concatenate([values for _, values in rows])
    return sparse.csr_matrix((values, columns, ends), shape=(len(rows), N_BUCKETS))


def _idf(counts: sparse.csr_matrix, train: NDArray[np.int64]) -> Floats32:
    documents = np.bincount(counts[train].indices, minlength=N_BUCKETS)
    idf = np.log((1 + len(train)) / (1 + documents)) + 1
    # Rounded as it will be stored, so that serving computes the same norm.
    return np.where(documents >= MIN_DOCUMENTS, idf, 0.0).astype(np.float16).astype(np.float32)


def _weighted(counts: sparse.csr_matrix, idf: Floats32) -> sparse.csr_matrix:
    """`weigh` for many rows at once."""
    weighted = (counts @ sparse.diags(idf)).tocsr().astype(np.float32)
    norm = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return (sparse.diags((1 / np.where(norm > 0, norm, 1)).astype(np.float32)) @ weighted).tocsr()


def fit_linear(rows: Rows, train: NDArray[np.int64]) -> tuple[Linear, Floats]:
    """The first stage fitted on `train`, and its scores of all rows, shape (n, n_targets)."""
    n_targets = len(LABEL_SET)
    idf = np.stack([_idf(counts, train) for counts in rows.counts])
    mean, spread = rows.structure[train].mean(axis=0), rows.structure[train].std(axis=0)
    structure = scale_structure(rows.structure, mean, spread)
    one_hot = np.eye(len(rows.categories), dtype=np.float32)[rows.category]
    text = [_weighted(counts, i) for counts, i in zip(rows.counts, idf, strict=True)]
    design = sparse.hstack([*text, sparse.csr_matrix(structure), sparse.csr_matrix(one_hot)], format="csr")
    design = design.astype(np.float32)
    ridge = Ridge(alpha=RIDGE_STRENGTH, solver="sparse_cg", tol=1e-3).fit(design[train], rows.labels[train])
    weights = np.asarray(ridge.coef_, dtype=np.float64).T
    n_text = len(text) * N_BUCKETS
    n_structure = structure.shape[1]
    linear = Linear(
        idf=idf,
        text=weights[:n_text].reshape(len(text), N_BUCKETS, n_targets).astype(np.float16).astype(np.float32),
        mean=mean,
        spread=spread,
        structure=weights[n_text : n_text + n_structure],
        category=weights[n_text + n_structure :],
        bias=np.asarray(ridge.intercept_, dtype=np.float64),
        cold=cold_weights(weights[n_text : n_text + n_structure], structure[train]),
    )
    return linear, np.asarray(ridge.predict(design), dtype=np.float64)


def cold_weights(weights: Floats, structure: Floats) -> Floats:
    """Weights of structure for categories without labels: the learned ones, and length once more with equal weight.

    Length is the one direction that held on every source tried, so it is not left to what other sources say of it.
    weights: (n_structure, n_targets); structure: (n, n_structure), scaled.
    """
    cold = weights.copy()
    log_chars = PROMPT_FEATURES.index("log_chars")
    length = float(structure[:, log_chars].std())
    if length > 0:
        cold[log_chars] += (structure @ weights).std(axis=0) / length
    return cold


def category_rates(rows: Rows, train: NDArray[np.int64]) -> Floats:
    """Mean label per category, shrunken to the common mean, which is the last row; (n_categories + 1, n_targets)."""
    common = rows.labels[train].mean(axis=0)
    total = np.zeros((len(rows.categories), len(LABEL_SET)))
    np.add.at(total, rows.category[train], rows.labels[train])
    n = np.bincount(rows.category[train], minlength=len(rows.categories))[:, None]
    return np.vstack([(total + RATE_PRIOR_LABELS * common) / (n + RATE_PRIOR_LABELS), common])


def grow_forest(
    dense: Floats, labels: Floats, fold: NDArray[np.int64], shape: ForestShape, seed: int
) -> tuple[Forest, Floats]:
    """The second stage and its out-of-fold predictions, shape (n, n_targets).

    Extra trees predict out of bag; boosted trees, which have no bag, are fitted once more for each fold.
    """
    extra = ExtraTreesRegressor(
        n_estimators=shape.n_trees,
        min_samples_leaf=min(shape.min_leaf, max(1, len(dense) // 10)),
        max_features=shape.feature_ratio,
        bootstrap=True,
        oob_score=True,
        random_state=seed,
    ).fit(dense, labels)
    # A row that was in every tree's bag has no such prediction; with 100 trees there is none.
    held_out = np.asarray(extra.oob_prediction_, dtype=np.float64)
    trees = [tree.tree_ for tree in extra.estimators_]
    values = [tree.value[:, :, 0] for tree in trees]
    if shape.n_boosted:
        n_targets = labels.shape[1]
        boosted = [_boost(dense, labels[:, target], shape, seed) for target in range(n_targets)]
        from_boosted = np.zeros(labels.shape)
        for held in (fold == f for f in np.unique(fold)):
            for target in range(n_targets):
                model = _boost(dense[~held], labels[~held, target], shape, seed)
                from_boosted[held, target] = model.predict(dense[held])
        held_out = (held_out + from_boosted) / 2
        # A Forest means over its trees: each part is scaled so that the mean is half of either.
        start = np.array([model.init_.constant_[0, 0] for model in boosted])
        n_all = len(trees) + n_targets * shape.n_boosted
        values = [(value + start) * n_all / (2 * len(trees)) for value in values]
        for target, model in enumerate(boosted):
            for tree in (stage[0].tree_ for stage in model.estimators_):
                value = np.zeros((tree.node_count, n_targets))
                value[:, target] = tree.value[:, 0, 0] * model.learning_rate * n_all / 2
                trees.append(tree)
                values.append(value)
    return _packed(trees, values), held_out


def _boost(dense: Floats, labels: Floats, shape: ForestShape, seed: int) -> GradientBoostingRegressor:
    return GradientBoostingRegressor(
        n_estimators=shape.n_boosted,
        learning_rate=0.1,
        max_depth=3,
        subsample=0.6,
        max_features=0.4,
        min_samples_leaf=min(20, max(1, len(dense) // 10)),
        random_state=seed,
    ).fit(dense, labels)


def _packed(trees: Sequence[Tree], values: Sequence[Floats]) -> Forest:
    """Trees side by side in arrays as long as the largest."""
    shape = (len(trees), max(tree.node_count for tree in trees))
    feature, left, right = (np.full(shape, -1, dtype=np.int32) for _ in range(3))
    threshold = np.zeros(shape)
    value = np.zeros((*shape, values[0].shape[1]), dtype=np.float32)
    for i, (tree, leaf) in enumerate(zip(trees, values, strict=True)):
        n = tree.node_count
        feature[i, :n] = np.maximum(tree.feature, -1)
        threshold[i, :n] = tree.threshold
        left[i, :n], right[i, :n] = tree.children_left, tree.children_right
        value[i, :n] = leaf
    return Forest(feature, threshold, left, right, value)


def forest_weight(linear_scores: Floats, from_forest: Floats, pairs: Sequence[Pair]) -> float:
    """How much the forest counts beside the linear score: what recovers most of the gap out of fold.

    On 754 pairs a forest over structure alone costs 0.03 APGR. On thousands, or with further answers, it adds. So it is
    measured. The smallest weight within WORTH_A_FOREST of the best is taken.
    """
    tier1 = np.array([pair.tier1_quality for pair in pairs])
    frontier = np.array([pair.frontier_quality for pair in pairs])

    def recovered(weight: float) -> float:
        gain = weight * from_forest[:, 0] + (1 - weight) * linear_scores[:, 0]
        return apgr(quality_curve(-gain, tier1, frontier)) or 0.0

    reached = {weight: recovered(weight) for weight in FOREST_WEIGHTS}
    return next(weight for weight in FOREST_WEIGHTS if reached[weight] >= max(reached.values()) - WORTH_A_FOREST)


def blend(estimates: tuple[Floats, Floats, Floats], weights: tuple[float, float]) -> Floats:
    """Forest, logistic model and linear score as Head.score mixes them; weights: of the first two."""
    forest, logistic, linear = estimates
    return weights[0] * forest + weights[1] * logistic + (1 - weights[0] - weights[1]) * linear


def gate_weights(estimates: tuple[Floats, Floats, Floats], labels: Floats) -> tuple[float, float]:
    """The GATE_WEIGHTS nearest to the labels out of fold.

    By squared error: on 140 pairs APGR is so rough that it once left all to the linear score, which sees no signal.
    """
    return min(GATE_WEIGHTS, key=lambda weights: float(((blend(estimates, weights) - labels) ** 2).mean()))


def known_by_most(reads: Reads, evidence: Sequence[Evidence]) -> bool:
    """Whether enough pairs have a signal: a few calls of a stack that is busy come too late."""
    return float(np.mean([reads.known(e) for e in evidence])) >= MOST


def stages(kind: HeadKind, evidence: Sequence[Evidence], *, counted: bool) -> tuple[Reads, ...]:
    """Which second stages the pairs can train, poorest first; each reads what four of five pairs have.

    Router: without and with the router model. Gate: text; logprobs; one further answer and all of them; the verdict,
    last because it was worth least beside the others (benchmarks/LOG.md). counted: of the further answers only counts
    are known, so no single one can be picked.
    """
    gate = kind is HeadKind.GATE
    has = Reads(
        router=not gate and known_by_most(Reads(router=True), evidence),
        logprobs=gate and known_by_most(Reads(logprobs=True), evidence),
        n_answers=int(np.quantile([len(e.other_answers) for e in evidence], 1 - MOST, method="lower")) if gate else 0,
        verdict=gate and known_by_most(Reads(verdict=True), evidence),
    )
    found = [Reads(), Reads(router=has.router, logprobs=has.logprobs)]
    found += [
        found[-1].model_copy(update={"n_answers": n}) for n in (0 if counted else min(1, has.n_answers), has.n_answers)
    ]
    found.append(found[-1].model_copy(update={"verdict": has.verdict}))
    return tuple(dict.fromkeys(found))


def fit_head(kind: HeadKind, name: str, pairs: Sequence[Pair], shape: ForestShape, seed: int) -> Fitted:
    """One head on one set of pairs. Raises TooFewPairs."""
    rows = rows_of(kind, pairs, seed)
    everything = np.arange(len(pairs))
    linear_scores = np.zeros(rows.labels.shape)
    rates = np.zeros(rows.labels.shape)
    for fold in np.unique(rows.fold):
        train, held = np.flatnonzero(rows.fold != fold), np.flatnonzero(rows.fold == fold)
        if train.size == 0:
            raise TooFewPairs(f"{name}: all pairs ask the same question")
        linear_scores[held] = fit_linear(rows, train)[1][held]
        rates[held] = category_rates(rows, train)[rows.category[held]]
    linear, _ = fit_linear(rows, everything)
    names = [pair.category for pair in pairs]
    ok = np.array([float(pair.tier1_ok) for pair in pairs])
    good = np.array([float(not pair.bad_draft) for pair in pairs])
    forests: dict[int, Forest] = {}
    logistics: dict[int, Logistic] = {}
    tops: list[TopCard] = []
    out_of_fold: dict[int, Floats] = {}
    for reads in stages(kind, rows.evidence, counted=any(p.agreement for p in pairs)):
        stage = len(tops)
        able = np.array([i for i, e in enumerate(rows.evidence) if reads.known(e)])
        dense = np.array(
            [
                dense_row(linear_scores[i], rates[i], rows.structure[i], signals_row(rows.evidence[i], reads))
                for i in able
            ]
        )
        forest, from_forest = grow_forest(dense, rows.labels[able], rows.fold[able], shape, seed)
        if kind is HeadKind.GATE:
            logistic, from_logistic = logistic_stage(rows, able, dense, reads)
            estimates = (from_forest, from_logistic, linear_scores[able])
            weights = gate_weights(estimates, rows.labels[able])
        else:
            logistic, estimates = None, (from_forest, np.zeros_like(from_forest), linear_scores[able])
            weights = (forest_weight(linear_scores[able], from_forest, [pairs[i] for i in able]), 0.0)
        scores = blend(estimates, weights)
        if stage and kind is HeadKind.GATE and not better(scores, out_of_fold[stage - 1][able], rows.labels[able]):
            log.info("%s: left out, no better than the stage before it: %s", name, reads)
            continue
        forests[stage] = forest
        if logistic is not None:
            logistics[stage] = logistic
        # A pair without the signal keeps what the stage before says of it.
        out_of_fold[stage] = out_of_fold[stage - 1].copy() if stage else linear_scores.copy()
        out_of_fold[stage][able] = scores
        tops.append(
            TopCard(
                reads=reads,
                forest_weight=weights[0],
                logistic_weight=weights[1],
                tier1_ok=fit_calibration(log_odds(1 - scores[:, 0]), ok[able], [names[i] for i in able]),
                draft_good=fit_calibration(log_odds(1 - scores[:, 1]), good[able], [names[i] for i in able]),
            )
        )
        log.info("%s: second stage %d (%s) fitted on %d pairs", name, stage, reads, len(able))
    card = HeadCard(
        name=name,
        categories=rows.categories,
        n_labels=tuple(int(n) for n in np.bincount(rows.category, minlength=len(rows.categories))),
        tops=tuple(tops),
    )
    return Fitted(Head(kind, card, linear, category_rates(rows, everything), forests, logistics), out_of_fold)


def better(scores: Floats, before: Floats, labels: Floats) -> bool:
    """Whether a stage's out-of-fold scores are nearer to the labels than before, by over one standard error.

    A paid signal that teaches nothing on these labels would cost money and only add noise. (n, n_targets) each.
    """
    saved = (((before - labels) ** 2) - ((scores - labels) ** 2)).mean(axis=1)
    return float(saved.mean()) > float(saved.std()) / float(np.sqrt(saved.size))


def logistic_stage(rows: Rows, able: NDArray[np.int64], dense: Floats, reads: Reads) -> tuple[Logistic, Floats]:
    """The gate's logistic model on the pairs `able`, and what it says of each out of fold, shape (n, n_targets).

    A category may weigh the first stage's scores and the signals in its own way.
    """
    n_signals = signals_row(rows.evidence[able[0]], reads).size
    signals = np.array([*range(len(LABEL_SET)), *range(dense.shape[1] - n_signals, dense.shape[1])])
    shares, category, fold = shares_of(rows.labels[able]), rows.category[able], rows.fold[able]

    def fit(train: NDArray[np.bool_]) -> Logistic:
        return fit_logistic(dense[train], shares[train], category[train], len(rows.categories), signals)

    held_out = np.zeros(shares.shape)
    for number in np.unique(fold):
        model = fit(fold != number)
        for i in np.flatnonzero(fold == number):
            held_out[i] = labels_of(model.predict(dense[i], category[i]))
    return fit(np.ones(able.size, dtype=bool)), held_out
