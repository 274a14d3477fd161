"""Exact and near duplicates of prompts: by question key, then by MinHash over word groups (datasketch)."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from datasketch import MinHash, MinHashLSH

from routing.learning.labels import question_key
from routing.text.request_body import words

SIMILAR: Final = 0.8  # Jaccard similarity of word groups
GROUP: Final = 3  # words a group
N_PERMUTATIONS: Final = 128
SHORTEST: Final = 6  # words; what is shorter shares too few groups to be called near anything

Item = TypeVar("Item")


class Duplicates:
    """A set of prompts that can be asked whether it has one like this."""

    def __init__(self, prompts: Iterable[str] = (), similar: float = SIMILAR) -> None:
        self._keys: set[str] = set()
        self._near = MinHashLSH(threshold=similar, num_perm=N_PERMUTATIONS)
        self._n = 0
        for prompt in prompts:
            self.add(prompt)

    def add(self, prompt: str) -> None:
        """Remember a prompt."""
        self._keys.add(question_key(prompt))
        signature = minhash(prompt)
        if signature is not None:
            self._near.insert(str(self._n), signature)
            self._n += 1

    def has(self, prompt: str) -> bool:
        """Whether one asks the same question, or nearly the same words."""
        if question_key(prompt) in self._keys:
            return True
        signature = minhash(prompt)
        return signature is not None and bool(self._near.query(signature))


def minhash(prompt: str) -> MinHash | None:
    """Signature of the word groups of a prompt, numbers included; None for a short one."""
    found = [w.lower() for w in (words(prompt) if not any(c.isdigit() for c in prompt) else prompt.split())]
    if len(found) < SHORTEST:
        return None
    signature = MinHash(num_perm=N_PERMUTATIONS)
    signature.update_batch([" ".join(found[i : i + GROUP]).encode() for i in range(len(found) - GROUP + 1)])
    return signature


def unique(items: Sequence[Item], prompts: Sequence[str], similar: float = SIMILAR) -> list[Item]:
    """The items whose prompt is not a duplicate of an earlier one's."""
    seen = Duplicates(similar=similar)
    kept = []
    for item, prompt in zip(items, prompts, strict=True):
        if not seen.has(prompt):
            seen.add(prompt)
            kept.append(item)
    return kept


def leaked(prompts: Sequence[str], evaluation: Iterable[str], similar: float = SIMILAR) -> list[int]:
    """Which of the prompts are in an evaluation set, exactly or nearly; their positions."""
    held = Duplicates(evaluation, similar)
    return [i for i, prompt in enumerate(prompts) if held.has(prompt)]
