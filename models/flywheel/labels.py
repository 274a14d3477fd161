"""Samples and feedback become graded pairs with provenance. No tenant gives more labels than a few times its peers.

Graders in falling trust: a reference answer, a verifier of the form, the blind pairwise judge, the client's own word.
"""

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from models.errors import ModelsError
from routing.gate.answer_form import json_fits
from routing.heads.calibration import clopper_pearson_upper
from routing.learning.labels import Pair, Provenance, question_key
from routing.learning.samples import Feedback, Grader, Sample, SampleSource
from routing.text.structure import normal_answer

TENANT_MEDIANS: Final = 3  # labels of one tenant at most, in medians over tenants
CONTRADICTION_RATE: Final = 0.5  # a tenant whose word is more often wrong than right, surely, is not believed
ERROR_RATE: Final = 0.01


class ReferencesInvalid(ModelsError):
    """A file of reference answers cannot be read."""


def read_references(path: Path) -> dict[str, str]:
    """Answer by question key, from lines of {"prompt", "answer"}. Raises ReferencesInvalid."""
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {question_key(line["prompt"]): str(line["answer"]) for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReferencesInvalid(f"{path}: {error!r}; every line needs a prompt and an answer") from error


def graded_pairs(
    samples: Iterable[Sample], feedback: Iterable[Feedback], references: Mapping[str, str] | None = None
) -> list[Pair]:
    """One pair per sample that anybody graded, in order. Feedback of tenants in `not_believed` does not count."""
    samples, said = list(samples), {word.request_id: word for word in feedback}
    distrusted = set(not_believed(samples, said.values(), references))
    pairs = []
    for sample in samples:
        word = None if tenant_hash(sample.tenant) in distrusted else said.get(sample.request_id)
        graded = grade(sample, word, references or {})
        if graded is not None and sample.tier1_output is not None:
            tier1, frontier, grader = graded
            pairs.append(
                Pair(
                    id=sample.request_id,
                    category=sample.category,
                    prompt=sample.asked,
                    tier1_quality=tier1,
                    frontier_quality=frontier,
                    tier1_output=sample.tier1_output,
                    frontier_output=sample.frontier_output,
                    provenance=Provenance(
                        request_id=sample.request_id,
                        at=sample.at,
                        tenant=tenant_hash(sample.tenant),
                        grader=grader,
                        tier1_model=sample.tier1_model,
                        frontier_model=sample.frontier_model,
                        config_hash=sample.config_hash,
                    ),
                )
            )
    return pairs


def grade(sample: Sample, word: Feedback | None, references: Mapping[str, str]) -> tuple[float, float, Grader] | None:
    """(tier1_quality, frontier_quality, grader) by the surest grader there is; None when nobody can say."""
    sure = grade_surely(sample, references)
    if sure is not None:
        return sure
    if word is None or sample.source is SampleSource.ESCALATION:
        return None  # a word on the frontier's answer says nothing of the draft
    bad = word.rating == -1 or (word.rating is None and word.correction is not None)
    return (0.0 if bad else 1.0), 1.0, Grader.FEEDBACK


def grade_surely(sample: Sample, references: Mapping[str, str]) -> tuple[float, float, Grader] | None:
    """The same without anybody's word."""
    tier1, frontier = sample.tier1_output, sample.frontier_output
    if tier1 is None or frontier is None:
        return None
    reference = references.get(question_key(sample.prompt))
    if reference is not None:
        return matches(tier1, reference), matches(frontier, reference), Grader.REFERENCE
    body = {"response_format": sample.response_format}
    fits = [json_fits(body, text) for text in (tier1, frontier)]
    if fits == [False, True]:  # a form that does not fit is wrong; one that fits proves nothing
        return 0.0, 1.0, Grader.VERIFIER
    if sample.grader is not None and sample.tier1_quality is not None and sample.frontier_quality is not None:
        return sample.tier1_quality, sample.frontier_quality, sample.grader
    return None


def matches(output: str, reference: str) -> float:
    """1.0 when the output is the reference, or its last line or word is, however it is spelled; else 0.0."""
    lines = [line for line in output.splitlines() if line.strip()] or [""]
    said = {normal_answer(text) for text in (output, lines[-1], lines[-1].split()[-1] if lines[-1].split() else "")}
    return float(normal_answer(reference) in said)


def tenant_hash(tenant: str) -> str:
    """What stands for a tenant outside the ledger."""
    return hashlib.blake2b(tenant.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def not_believed(
    samples: Iterable[Sample], feedback: Iterable[Feedback], references: Mapping[str, str] | None = None
) -> dict[str, tuple[int, int]]:
    """Tenants whose word is surely more often wrong than right where a surer grader knows: hash → (wrong, known).

    Wrong: a rating on tier 1's answer that a reference, verifier or judge contradicts. The bound is exact (Clopper and
    Pearson), so a few honest disagreements never suffice.
    """
    by_id = {sample.request_id: sample for sample in samples}
    wrong: Counter[str] = Counter()
    known: Counter[str] = Counter()
    for word in feedback:
        sample = by_id.get(word.request_id)
        if sample is None or word.rating is None or sample.source is SampleSource.ESCALATION:
            continue
        sure = grade_surely(sample, references or {})
        if sure is None or sure[0] == 0.5:
            continue
        known[tenant_hash(sample.tenant)] += 1
        wrong[tenant_hash(sample.tenant)] += (word.rating == 1) != (sure[0] > 0.5)
    return {
        tenant: (wrong[tenant], n)
        for tenant, n in known.items()
        if 1 - clopper_pearson_upper(n - wrong[tenant], n, ERROR_RATE) > CONTRADICTION_RATE
    }


def cap_tenants(pairs: Sequence[Pair], medians: float = TENANT_MEDIANS) -> tuple[list[Pair], dict[str, int]]:
    """The pairs without what one tenant has beyond `medians` times the (low) median tenant; what was cut, by tenant.

    A tenant's earliest labels stay. A stack with one tenant has nobody to protect from it.
    """
    count = Counter(pair.provenance.tenant for pair in pairs if pair.provenance is not None)
    if len(count) < 2:
        return list(pairs), {}
    limit = int(medians * statistics.median_low(count.values()))
    kept, seen = [], Counter[str]()
    for pair in pairs:
        tenant = pair.provenance.tenant if pair.provenance is not None else None
        if tenant is not None:
            seen[tenant] += 1
        if tenant is None or seen[tenant] <= limit:
            kept.append(pair)
    return kept, {tenant: n - limit for tenant, n in count.items() if n > limit}
