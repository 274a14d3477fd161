"""A map of 64-bit keys to 64-bit values in 23 to 32 bytes an entry. A dict would need three times that.

Open addressing with linear probing. The keys must be hashes already: a key's home is its rank among all possible keys,
so the table is nearly sorted and numpy rebuilds it in one pass.
"""

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# At load a a probe visits (1 + 1/(1-a)) / 2 slots for a hit and (1 + 1/(1-a)^2) / 2 for a miss: 2.2 and 6 at 0.7.
MAX_LOAD = 0.7
GROWTH = 1.4
MIN_SLOTS = 64
# Probes run past the last home instead of wrapping around. A cluster longer than this at the very end forces a growth.
TAIL_SLOTS = 64


class KeyTable:
    """uint64 key -> uint64 value. Key 0 marks an empty slot and value 0 reads as absent: neither can be stored."""

    __slots__ = ("_count", "_keys", "_limit", "_slots", "_values")

    def __init__(self) -> None:
        self._allocate(MIN_SLOTS)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, key: int) -> bool:
        return self.get(key) != 0

    @property
    def nbytes(self) -> int:
        """Bytes held by the table's slots."""
        return (len(self._keys) + len(self._values)) * 8

    def get(self, key: int) -> int:
        """The value of key, 0 when absent."""
        keys = self._keys
        slot = (key >> 32) * self._slots >> 32
        while (found := keys[slot]) != key:
            if not found:
                return 0
            slot += 1
        return self._values[slot]

    def narrow(self, keys: Iterable[int], bits: int) -> list[tuple[int, int]]:
        """Intersect bits with the value of one key after the other: [(bits that dropped out, keys passed before), ...].

        The last pair holds the bits that every key has, if any. The pairs' bits are disjoint and make up `bits`. This
        is the hot path of a routing decision. One loop here takes half the time of calls to `get`.
        """
        table, values, slots = self._keys, self._values, self._slots
        dropped: list[tuple[int, int]] = []
        depth = 0
        for key in keys:
            slot = (key >> 32) * slots >> 32
            while (found := table[slot]) != key and found:
                slot += 1
            # An empty slot's value is 0, which means absent.
            kept = bits & values[slot]
            if kept != bits:
                dropped.append((bits ^ kept, depth))
                bits = kept
                if not bits:
                    return dropped
            depth += 1
        dropped.append((bits, depth))
        return dropped

    def put(self, key: int, value: int) -> int:
        """Set key to value (both > 0). Returns the value it had, 0 when it is new."""
        keys = self._keys
        slot = (key >> 32) * self._slots >> 32
        while found := keys[slot]:
            if found == key:
                before = self._values[slot]
                self._values[slot] = value
                return before
            slot += 1
        if self._count >= self._limit or slot == len(keys) - 1:
            self._rebuild(*self.items(), int(self._slots * GROWTH))
            return self.put(key, value)
        keys[slot] = key
        self._values[slot] = value
        self._count += 1
        return 0

    def pop(self, key: int) -> int:
        """Remove key. Returns the value it had, 0 when it was absent."""
        keys, values, slots = self._keys, self._values, self._slots
        hole = (key >> 32) * slots >> 32
        while (found := keys[hole]) != key:
            if not found:
                return 0
            hole += 1
        before = values[hole]
        # Close the gap, so that no tombstones pile up: a later entry may move back as far as its home.
        slot = hole + 1
        while follower := keys[slot]:
            if (follower >> 32) * slots >> 32 <= hole:
                keys[hole], values[hole] = follower, values[slot]
                hole = slot
            slot += 1
        keys[hole] = values[hole] = 0
        self._count -= 1
        return before

    def items(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """All keys and their values, copied, each shape (len(self),)."""
        keys = np.frombuffer(self._keys, dtype=np.uint64)
        used = np.flatnonzero(keys)
        return keys[used], np.frombuffer(self._values, dtype=np.uint64)[used]

    def replace(self, keys: NDArray[np.uint64], values: NDArray[np.uint64]) -> None:
        """Hold exactly these entries. Keys are distinct and > 0, values > 0, both of shape (n,)."""
        self._rebuild(keys, values, max(MIN_SLOTS, int(len(keys) / MAX_LOAD * GROWTH)))

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._allocate(MIN_SLOTS)

    def _allocate(self, slots: int) -> None:
        self._slots = slots
        self._limit = int(slots * MAX_LOAD)
        self._count = 0
        self._keys = array("Q", bytes(8 * (slots + TAIL_SLOTS)))
        self._values = array("Q", bytes(8 * (slots + TAIL_SLOTS)))

    def _rebuild(self, keys: NDArray[np.uint64], values: NDArray[np.uint64], slots: int) -> None:
        order = np.argsort(keys)
        keys, values = keys[order], values[order]
        rank = np.arange(len(keys))
        while True:
            homes = ((keys >> np.uint64(32)) * np.uint64(slots) >> np.uint64(32)).astype(np.int64)
            # In key order an entry lies at its home, or right behind its predecessor when that one lies further.
            places = rank + np.maximum.accumulate(homes - rank) if len(keys) else rank
            if not len(keys) or places[-1] < slots + TAIL_SLOTS - 1:
                break
            slots = int(slots * GROWTH)
        self._allocate(slots)
        np.frombuffer(self._keys, dtype=np.uint64)[places] = keys
        np.frombuffer(self._values, dtype=np.uint64)[places] = values
        self._count = len(keys)
