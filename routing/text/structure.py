"""Counts features of a prompt, a draft and a set of answers: length, numbers, options, hedges, agreement.

Counts enter as ln(1 + count), so that a text of twice the length moves a feature by one step, not by its length.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from routing.text.arithmetic import equations
from routing.text.ngrams import KEPT_TEXTS
from routing.text.request_body import edges

Floats = NDArray[np.float64]

_OPTION: Final = re.compile(r"\n[ \t]*\(?([A-J])[.)][ \t]?([^\n]*)")
_NUMBER: Final = re.compile(r"\d+(?:[.,]\d+)*")
_MATH: Final = re.compile(r"[+\-*/=^<>\\$_{}%]")
_NEGATION: Final = re.compile(r"\b(?:not|except|least|false|incorrect|never)\b", re.IGNORECASE)
_CATCH_ALL: Final = re.compile(r"\b(?:all|none|both|neither) of\b", re.IGNORECASE)
_HEDGE: Final = re.compile(
    r"\b(?:however|maybe|perhaps|might|not sure|unclear|assum\w+|approximat\w+|closest|wait|mistake|re-?check)\b",
    re.IGNORECASE,
)
_CONCLUSION: Final = re.compile(r"answer|####|therefore|thus|\\boxed|result", re.IGNORECASE)
_OPTION_NAMED: Final = re.compile(r"\(([A-J])\)")
_END_CHARS: Final = 200
_MOSTLY_NUMBER: Final = re.compile(r"\W*[\d.,]+\W*(?:\w{1,8}\W*)?$")
_DECIMAL: Final = re.compile(r"-?\d+(?:\.\d+)?")
_BESIDE_A_MARK: Final = re.compile(r"\s*([,:\[\](){}])\s*")

PROMPT_FEATURES: Final = (
    "log_chars",
    "log_stem_chars",
    "log_stem_words",
    "log_numbers",
    "digit_ratio",
    "log_math_marks",
    "log_non_ascii",
    "log_sentences",
    "log_lines",
    "mean_word_chars",
    "distinct_word_ratio",
    "upper_ratio",
    "asks",
    "blank",
    "negation",
    "catch_all",
    "code",
    "n_options",
    "log_mean_option_chars",
    "log_max_option_chars",
    "log_option_spread",
    "numeric_option_ratio",
)


@lru_cache(maxsize=KEPT_TEXTS)
def prompt_structure(prompt: str) -> Floats:
    """The PROMPT_FEATURES of a prompt, shape (len(PROMPT_FEATURES),). Reads its first and last 4,096 characters."""
    text = edges(prompt)
    options = [option.strip() for _, option in _OPTION.findall(text)]
    stem = text[: found.start()] if (found := _OPTION.search(text)) else text
    words = stem.split()
    sizes = [len(option) for option in options] or [0]
    mean_size = sum(sizes) / len(sizes)
    spread = math.sqrt(sum((s - mean_size) ** 2 for s in sizes) / len(sizes))
    n_chars = len(stem) + 1
    return np.array(
        [
            math.log1p(len(prompt)),
            math.log1p(len(stem)),
            math.log1p(len(words)),
            math.log1p(len(_NUMBER.findall(stem))),
            sum(map(str.isdigit, stem)) / n_chars,
            math.log1p(len(_MATH.findall(stem))),
            math.log1p(len(text.encode("utf-8", "replace")) - len(text)),
            math.log1p(stem.count(".")),
            math.log1p(text.count("\n")),
            sum(map(len, words)) / len(words) if words else 0.0,
            len(set(words)) / (len(words) + 1),
            sum(map(str.isupper, stem)) / n_chars,
            float(stem.rstrip().endswith("?")),
            float("___" in stem),
            float(_NEGATION.search(stem) is not None),
            float(_CATCH_ALL.search(text) is not None),
            float("def " in text or "```" in text or "return " in text),
            float(len(options)),
            math.log1p(mean_size),
            math.log1p(max(sizes)),
            math.log1p(spread),
            sum(_MOSTLY_NUMBER.match(o) is not None for o in options) / len(options) if options else 0.0,
        ]
    )


DRAFT_FEATURES: Final = (
    "log_chars",
    "log_words",
    "log_lines",
    "log_numbers",
    "log_math_marks",
    "log_hedges",
    "log_conclusions",
    "distinct_word_ratio",
    "distinct_line_ratio",
    "ends_in_full",
    "chars_over_prompt",
    "number_overlap_ratio",
    "last_number_log",
    "last_number_whole",
    "answer_found",
    "answer_log_chars",
    "answer_stated",
    "log_options_named",
    "log_equations",
    "equations_wrong",
    "equations_wrong_ratio",
)


@lru_cache(maxsize=KEPT_TEXTS)
def draft_structure(prompt: str, draft: str, answer: str | None) -> Floats:
    """The DRAFT_FEATURES of tier 1's text, shape (len(DRAFT_FEATURES),). answer: the extracted one, None when none."""
    text = edges(draft)
    words = text.split()
    lines = [line for line in text.splitlines() if line.strip()]
    numbers = _NUMBER.findall(text)
    asked = set(_NUMBER.findall(edges(prompt)))
    n_equations, n_wrong = equations(text)
    final = normal_answer(numbers[-1]) if numbers else None
    last = float(final) if final is not None and _DECIMAL.fullmatch(final) and len(final) <= 15 else 0.0
    return np.array(
        [
            math.log1p(len(draft)),
            math.log1p(len(words)),
            math.log1p(len(lines)),
            math.log1p(len(numbers)),
            math.log1p(len(_MATH.findall(text))),
            math.log1p(len(_HEDGE.findall(text))),
            math.log1p(len(_CONCLUSION.findall(text))),
            len(set(words)) / (len(words) + 1),
            len(set(lines)) / (len(lines) + 1),
            float(text.rstrip()[-1:] in tuple(".!?)}]`0123456789")),
            math.log1p(len(draft)) - math.log1p(len(prompt)),
            len(asked.intersection(numbers)) / len(asked) if asked else 0.0,
            min(math.log1p(last), 20.0),
            float(last == math.floor(last)),
            float(answer is not None and answer.strip() != ""),
            math.log1p(len(answer or "")),
            float(_states(text[-_END_CHARS:], answer)),
            math.log1p(len(set(_OPTION_NAMED.findall(text)))),
            math.log1p(n_equations),
            float(n_wrong > 0),
            n_wrong / n_equations if n_equations else 0.0,
        ]
    )


def _states(ending: str, answer: str | None) -> bool:
    """Whether the draft's last lines name the extracted answer. If not, the extraction was a guess."""
    return bool(answer) and re.search(rf"(?<!\w){re.escape(answer or '')}(?!\w)", ending) is not None


def normal_answer(answer: str | None) -> str | None:
    """One spelling per answer, so that "18", "$18.00" and " 18 " agree. None when there is nothing to compare."""
    if answer is None:
        return None
    plain = re.sub(r"\s+", "", answer).strip("$.").rstrip("%").lower()
    number = plain.replace(",", "")
    if _DECIMAL.fullmatch(number) and len(number) <= 15:
        return f"{float(number):.10g}"
    return plain or None


def exact_answer(answer: str | None) -> str | None:
    """One spelling per answer that keeps case and inner spaces, which in code and names tell answers apart.

    Numbers are as in `normal_answer`. Outer quotes, the kind of quotes and spaces beside brackets and commas do not
    count. An empty text is an answer too: that of a program that returns one.
    """
    if answer is None:
        return None
    number = normal_answer(answer)
    if number is not None and _DECIMAL.fullmatch(number):
        return number
    return _BESIDE_A_MARK.sub(r"\1", answer.strip().replace('"', "'")).strip("'")


def exact_agreement(answer: str | None, others: Sequence[str | None]) -> Floats:
    """Agreement by exact spelling: the share that agrees, the largest rival's, their difference, then one by one.

    Shape (3 + len(others),). others: at least one.
    """
    own = exact_answer(answer)
    rest = [exact_answer(o) for o in others]
    each = [float(own is not None and other == own) for other in rest]
    votes = Counter(o for o in rest if o is not None and o != own)
    agree, rival = sum(each) / len(rest), max(votes.values(), default=0) / len(rest)
    return np.array([agree, rival, agree - rival, *each])


AGREEMENT_FEATURES: Final = (
    "agree_ratio",
    "rival_ratio",
    "margin",
    "distinct_ratio",
    "answer_missing",
    "first_agrees",
    "all_agree",
    "none_agrees",
    "agree_ratio_squared",
)


def agrees(answer: str | None, others: Sequence[str | None]) -> Floats:
    """1 where one of the others gives the draft's answer, in their order, shape (len(others),): some are worth more."""
    own = normal_answer(answer)
    return np.array([float(own is not None and normal_answer(other) == own) for other in others])


def agreement(answer: str | None, others: Sequence[str | None]) -> Floats:
    """The AGREEMENT_FEATURES of the draft's answer among others', shape (len(AGREEMENT_FEATURES),).

    A missing answer agrees with nothing, not with another missing one. others: at least one.
    """
    own = normal_answer(answer)
    rest = [normal_answer(o) for o in others]
    votes = Counter(o for o in rest if o is not None)
    agree = votes.pop(own, 0) / len(rest) if own is not None else 0.0
    rival = max(votes.values(), default=0) / len(rest)
    return np.array(
        [
            agree,
            rival,
            agree - rival,
            (len(votes) + 1) / (len(rest) + 1),
            float(own is None),
            float(own is not None and rest[0] == own),
            float(agree == 1),
            float(agree == 0),
            agree**2,
        ]
    )
