"""Detects that a text repeats itself, while it is written.

There are three signs, each in a bounded window: one character repeated very often, a tail that repeats itself exactly,
or a window of words that says nothing new. Tables, lists of alike objects, refrains and counting repeat too. But
something in every row of them is new.
"""

import re
from collections import deque
from typing import Final

SAME_CHARS: Final = 256  # of one character, or of any white space. Ruled lines and padding are half as long at most
MAX_PERIOD: Final = 512  # units. Longer repetitions are not searched for
ONE_WORD_FACTOR: Final = 3  # a period with one word ("False, False, ") fills an 8x8 grid before it counts as a loop
NO_WORD_FACTOR: Final = 8  # one without words ("0, 0, ") a 12x12 matrix
WINDOW_GRAMS: Final = 512
GRAM_WORDS: Final = 4
GRAM_DISTINCT: Final = 3  # fewer different words in a 4-gram are a list of labels, not prose

# A unit is about a token: a CJK character, 16 characters of a word at most, or a run of one punctuation mark.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_UNIT = re.compile(rf"[{_CJK}]|[^\W{_CJK}]{{1,16}}|([^\w\s])\1*")
_SAME = re.compile(rf"(.)\1{{{SAME_CHARS - 1}}}|\s{{{SAME_CHARS}}}", re.DOTALL)


class LoopWatch:
    """Reads a text piece by piece. How it is cut into pieces never changes the result at the end.

    min_units: no repetition is a loop before this many units. max_repeat_ratio: share of 4-grams in the window that
    stood there before. Amortised constant time per character, memory bounded by the windows.
    """

    def __init__(self, min_units: int, max_repeat_ratio: float) -> None:
        self.looped = False
        self._min_units, self._max_repeat_ratio = min_units, max_repeat_ratio
        self._same_char, self._same_chars, self._spaces = "", 0, 0
        self._partial = ""  # the last unit, which the next piece may lengthen
        self._units: list[str] = [""] * (2 * MAX_PERIOD)  # ring
        self._n_units = 0
        self._last_at: dict[tuple[str, str, str], int] = {}  # where three units in a row last ended
        self._period, self._run = 0, 0
        self._words: deque[str] = deque(maxlen=GRAM_WORDS)
        self._grams: deque[tuple[str, ...]] = deque()
        self._gram_counts: dict[tuple[str, ...], int] = {}

    def feed(self, text: str) -> bool:
        """Take the next piece. Returns whether a loop has been seen so far."""
        if not self.looped and text:
            self.looped = self._same(text) or self._split(text)
        return self.looped

    def end(self) -> bool:
        """The text is complete, and so is its last unit. Returns whether a loop was seen."""
        if not self.looped and self._partial:
            self.looped = self._unit(self._partial)
            self._partial = ""
        return self.looped

    def _same(self, text: str) -> bool:
        lead = len(text) - len(text.lstrip(text[0]))
        tail = len(text) - len(text.rstrip(text[-1]))
        lead_spaces = len(text) - len(text.lstrip())
        tail_spaces = len(text) - len(text.rstrip())
        before = self._same_chars if text[0] == self._same_char else 0
        found = before + lead >= SAME_CHARS or self._spaces + lead_spaces >= SAME_CHARS
        self._same_chars = before + lead if lead == len(text) else tail
        self._spaces = self._spaces + lead_spaces if lead_spaces == len(text) else tail_spaces
        self._same_char = text[-1]
        return found or (len(text) >= SAME_CHARS and _SAME.search(text) is not None)

    def _split(self, text: str) -> bool:
        text = self._partial + text
        self._partial = ""
        looped = False
        for match in _UNIT.finditer(text):
            if match.end() == len(text):
                self._partial = match[0]
            else:
                looped = self._unit(match[0]) or looped
        return looped

    def _unit(self, unit: str) -> bool:
        is_word = unit[0].isalnum()
        if not is_word:
            unit = unit[0]
        period = self._repeats(unit)
        return (is_word and self._nothing_new(unit)) or period

    def _repeats(self, unit: str) -> bool:
        """Whether the text has ended for long enough with copies of one run of units."""
        units, at = self._units, self._n_units
        size = len(units)
        units[at % size] = unit
        self._n_units += 1
        key = (units[(at - 2) % size], units[(at - 1) % size], unit)
        if self._period and units[(at - self._period) % size] == unit:
            self._run += 1
        else:
            before = self._last_at.get(key)
            self._period = at - before if before is not None and at - before <= MAX_PERIOD else 0
            self._run = 0
        self._last_at[key] = at
        if len(self._last_at) > 2 * size:
            self._last_at = {k: last for k, last in self._last_at.items() if at - last <= MAX_PERIOD}
        if self._run < self._min_units or self._run % self._min_units:
            return False
        distinct_words = {w for w in (units[(at - i) % size] for i in range(self._period)) if w[0].isalpha()}
        factor = (NO_WORD_FACTOR, ONE_WORD_FACTOR, 1)[min(len(distinct_words), 2)]
        return self._run >= max(self._min_units * factor, 2 * self._period)

    def _nothing_new(self, word: str) -> bool:
        """Whether nearly all of the last 4-grams of words stood in the window before."""
        self._words.append(word)
        gram = tuple(self._words)
        if len(gram) < GRAM_WORDS or len(set(gram)) < GRAM_DISTINCT:
            return False
        grams, counts = self._grams, self._gram_counts
        grams.append(gram)
        counts[gram] = counts.get(gram, 0) + 1
        if len(grams) > WINDOW_GRAMS:
            old = grams.popleft()
            if counts[old] == 1:
                del counts[old]
            else:
                counts[old] -= 1
        repeated = len(grams) - len(counts)
        return len(grams) >= self._min_units and repeated >= self._max_repeat_ratio * len(grams)


def looped(text: str, min_units: int, max_repeat_ratio: float) -> bool:
    """Whether a complete text holds a loop (see LoopWatch)."""
    watch = LoopWatch(min_units, max_repeat_ratio)
    watch.feed(text)
    return watch.end()
