"""What a learned router must beat: random, category, length, text models, neighbours, agreement, and the oracle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import Normalizer

from routing.learning.labels import Pair
from routing.text.structure import AGREEMENT_FEATURES, agreement

Floats = NDArray[np.float64]

PRIOR_LABELS = 20.0  # that weigh as much as the common mean in a category's rate
N_NEIGHBOURS = 40
N_COMPONENTS = 100


@dataclass(frozen=True)
class Scored:
    """A router's scores of the test pairs, shape (n,) each. None where it says no such thing.

    p_tier1_ok: high = stay, orders the requests, any scale. probability: of the same, held to its word.
    """

    p_tier1_ok: Floats
    probability: Floats | None = None
    p_draft_good: Floats | None = None


def random_order(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """No knowledge: equal scores, which the curve counts as the mean over every order."""
    return Scored(np.zeros(len(test)))


def category_mean(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Share of the category's training pairs on which tier 1 did as well. Shrunken, the common mean when unknown."""
    common = float(np.mean([pair.tier1_ok for pair in train]))
    rate = {}
    for category in {pair.category for pair in train}:
        mine = [pair.tier1_ok for pair in train if pair.category == category]
        rate[category] = (sum(mine) + PRIOR_LABELS * common) / (len(mine) + PRIOR_LABELS)
    p = np.array([rate.get(pair.category, common) for pair in test])
    return Scored(p, probability=p)


def prompt_length(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Long prompts to the frontier."""
    return Scored(-np.array([float(len(pair.prompt)) for pair in test]))


def tfidf_lr(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Words and word pairs, logistic regression on the difference: the frontier right where tier 1 is wrong."""
    return _tfidf_lr(train, test, [not pair.tier1_ok for pair in train])


def tfidf_lr_failure(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """The same on tier 1's failure alone: the target that most routers use."""
    scored = _tfidf_lr(train, test, [pair.bad_draft for pair in train])
    return Scored(scored.p_tier1_ok, p_draft_good=scored.p_tier1_ok)


def _tfidf_lr(train: Sequence[Pair], test: Sequence[Pair], positive: Sequence[bool]) -> Scored:
    if len(set(positive)) < 2:
        return Scored(np.zeros(len(test)))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = LogisticRegression(max_iter=1000).fit(words.fit_transform([p.prompt for p in train]), positive)
    p = 1 - model.predict_proba(words.transform([p.prompt for p in test]))[:, 1]
    return Scored(np.asarray(p), probability=np.asarray(p))


def neighbours(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Mean gain of the nearest training prompts in a latent semantic space (SVD of TF-IDF)."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    counts = words.fit_transform([p.prompt for p in train])
    svd = TruncatedSVD(min(N_COMPONENTS, counts.shape[1] - 1, counts.shape[0] - 1), random_state=seed)
    unit = Normalizer()
    space = unit.transform(svd.fit_transform(counts))
    near = NearestNeighbors(n_neighbors=min(N_NEIGHBOURS, len(train))).fit(space)
    _, index = near.kneighbors(unit.transform(svd.transform(words.transform([p.prompt for p in test]))))
    return Scored(-np.array([p.gain for p in train])[index].mean(axis=1))


def ensemble(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Mean of the standardised scores of category, text and neighbours."""
    parts = [make(train, test, seed).p_tier1_ok for make in (category_mean, tfidf_lr, neighbours)]
    return Scored(np.sum([(p - p.mean()) / (p.std() or 1.0) for p in parts], axis=0))


def oracle(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
    """Knows both grades: what no router can pass."""
    return Scored(-np.array([pair.gain for pair in test]))


def agreement_with(n_answers: int) -> Callable[[Sequence[Pair], Sequence[Pair], int], Scored]:
    """Share of further answers that agree with the draft's, untrained."""

    def score(train: Sequence[Pair], test: Sequence[Pair], seed: int) -> Scored:
        which = AGREEMENT_FEATURES.index("agree_ratio")
        ratio = [agreement(p.tier1_answer, p.other_answers[:n_answers])[which] for p in test]
        return Scored(np.array(ratio))

    return score


BASELINES: dict[str, Callable[[Sequence[Pair], Sequence[Pair], int], Scored]] = {
    "random": random_order,
    "category mean": category_mean,
    "prompt length": prompt_length,
    "tfidf+lr": tfidf_lr,
    "tfidf+lr failure": tfidf_lr_failure,
    "lsa knn": neighbours,
    "ensemble": ensemble,
    "oracle router": oracle,
}
