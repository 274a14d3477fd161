"""Counts the words and letter groups of a text, hashed, in pure numpy: no vocabulary, bounded time."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

BUCKET_BITS: Final = 17  # 131,072 buckets a family: 512 KiB of float32 weights, few collisions at 10,000s of prompts
N_BUCKETS: Final = 1 << BUCKET_BITS
END_CHARS: Final = 2048  # read of either end: about 1,000 tokens in all, so that a long prompt takes 2 ms, not 5
LETTER_SIZES: Final = (3, 5)  # from, to
KEPT_TEXTS: Final = 64  # whose counts are cached: router and every step of the gate read the same prompt and draft
FEW: Final = 8192  # hashes. Up to here sorting them is faster than counting into all buckets

_BASE: Final = 0x100000001B3  # FNV's prime: odd, so it has an inverse modulo 2**64
_MAX_BYTES: Final = 1 << 15  # 4,099 characters of at most 4 bytes, or a few more where lower() lengthens one
_POWERS: Final = np.cumprod(np.full(_MAX_BYTES, _BASE, dtype=np.uint64))
_INVERSES: Final = np.cumprod(np.full(_MAX_BYTES, pow(_BASE, -1, 1 << 64), dtype=np.uint64))
_SPACES: Final = re.compile(r"\s+")
_SPACE: Final = ord(" ")

# Bytes of a word: ASCII letters, digits, underscore and every byte of a longer UTF-8 sequence.
_IN_WORD: Final = np.array([chr(b).isalnum() or b == ord("_") or b >= 128 for b in range(256)])

Buckets = NDArray[np.int64]


def _mix(h: NDArray[np.uint64]) -> Buckets:
    """Bucket of each hash. Source: the finalizer of splitmix64 (Steele et al. 2014)."""
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (h >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)


def _bytes(text: str) -> NDArray[np.uint64]:
    if len(text) > 2 * END_CHARS:
        text = f"{text[:END_CHARS]}\n{text[-END_CHARS:]}"
    plain = f" {_SPACES.sub(' ', text.lower()).strip()} "
    return np.frombuffer(plain.encode("utf-8", "replace"), dtype=np.uint8)[:_MAX_BYTES].astype(np.uint64)


def _words(text: NDArray[np.uint64]) -> Iterable[Buckets]:
    """Buckets of single words and of neighbouring pairs. A word has two bytes or more."""
    inside = np.concatenate([[False], _IN_WORD[text], [False]]).astype(np.int8)
    steps = np.diff(inside)
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    long = ends - starts > 1
    starts, ends = starts[long], ends[long]
    if not starts.size:
        return
    # Polynomial prefix sums modulo 2**64 give the hash of every slice at once.
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum(text * _POWERS[: text.size], dtype=np.uint64)])
    hashes = (prefix[ends] - prefix[starts]) * _INVERSES[starts]
    yield _mix(hashes)
    yield _mix(hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) + hashes[1:])


def _letters(text: NDArray[np.uint64]) -> Iterable[Buckets]:
    """Buckets of runs of 3 to 5 bytes that lie within a word and the spaces around it."""
    spaces_before = np.concatenate([[0], np.cumsum(text == _SPACE)])
    hashes = np.zeros(text.size + 1, dtype=np.uint64)
    for size in range(1, min(LETTER_SIZES[-1], text.size) + 1):
        n = text.size - size + 1
        hashes = hashes[:n] * np.uint64(_BASE) + text[size - 1 :]  # one letter more than the round before
        if size >= LETTER_SIZES[0]:
            within = spaces_before[size - 1 : size - 1 + n] == spaces_before[1 : 1 + n]
            yield _mix(hashes[within] + np.uint64(size))


def _count(families: Iterable[Buckets]) -> tuple[Buckets, NDArray[np.float32]]:
    parts = list(families)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    found = np.concatenate(parts)
    if found.size <= FEW:
        buckets, times = np.unique(found, return_counts=True)
    else:
        counts = np.bincount(found, minlength=N_BUCKETS)
        buckets = np.flatnonzero(counts)
        times = counts[buckets]
    return buckets, (1 + np.log(times)).astype(np.float32)


@lru_cache(maxsize=KEPT_TEXTS)
def word_counts(text: str) -> tuple[Buckets, NDArray[np.float32]]:
    """Ascending buckets (k,) of the text's words and word pairs, and 1 + ln(count) of each, shape (k,)."""
    return _count(_words(_bytes(text)))


@lru_cache(maxsize=KEPT_TEXTS)
def letter_counts(text: str) -> tuple[Buckets, NDArray[np.float32]]:
    """The same of letter groups: robust against spelling, names and formulas."""
    return _count(_letters(_bytes(text)))
