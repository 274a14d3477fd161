"""Which words and letter groups does a text hold? Hashed counts in pure numpy: no vocabulary, bounded time."""

import re
from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from routing.text import edges

BUCKET_BITS: Final = 17  # 131,072 buckets a family: 512 KiB of float32 weights, few collisions at 10,000s of prompts
N_BUCKETS: Final = 1 << BUCKET_BITS
LETTER_SIZES: Final = (3, 4, 5)

_BASE: Final = 0x100000001B3  # FNV's prime: odd, so it has an inverse modulo 2**64
_MAX_BYTES: Final = 1 << 16  # edges() leaves at most 8,193 characters of at most 4 bytes
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
    plain = f" {_SPACES.sub(' ', edges(text).lower()).strip()} "
    return np.frombuffer(plain.encode("utf-8", "replace"), dtype=np.uint8)[:_MAX_BYTES].astype(np.uint64)


def _words(text: NDArray[np.uint64]) -> Iterable[Buckets]:
    """Buckets of single words and of neighbouring pairs; a word has two bytes or more."""
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
    for size in LETTER_SIZES:
        n = text.size - size + 1
        if n <= 0:
            return
        hashes = np.full(n, size, dtype=np.uint64)
        for j in range(size):
            hashes = hashes * np.uint64(_BASE) + text[j : j + n]
        inner_spaces = spaces_before[size - 1 : size - 1 + n] - spaces_before[1 : 1 + n]
        yield _mix(hashes[inner_spaces == 0])


def _count(families: Iterable[Buckets]) -> tuple[Buckets, NDArray[np.float32]]:
    parts = list(families)
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    counts = np.bincount(np.concatenate(parts), minlength=N_BUCKETS)
    buckets = np.flatnonzero(counts)
    return buckets, (1 + np.log(counts[buckets])).astype(np.float32)


def word_counts(text: str) -> tuple[Buckets, NDArray[np.float32]]:
    """Ascending buckets (k,) of the text's words and word pairs, and 1 + ln(count) of each, shape (k,)."""
    return _count(_words(_bytes(text)))


def letter_counts(text: str) -> tuple[Buckets, NDArray[np.float32]]:
    """The same of letter groups: robust against spelling, names and formulas."""
    return _count(_letters(_bytes(text)))
