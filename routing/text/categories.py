"""Sorts requests into kinds of work by simple rules on their words. Thresholds and calibration are per category."""

import re
from dataclasses import dataclass
from typing import Final

from routing.text.request_body import words

# Built-in categories. PolicyConfig.categories may add more, which clients then name in `metadata.category`.
CATEGORIES: Final = frozenset(
    {
        "tools",
        "json",
        "code",
        "classify",
        "extract",
        "summarize",
        "translate",
        "rewrite",
        "math",
        "chat",
        "other",
    }
)


@dataclass(frozen=True)
class Rule:
    """One way to recognise a category.

    A text matches when it has one of `words` (lower case), one of the substrings `marks`, or a match of the regular
    expression `phrase` in its lower-case text. `phrase` is tried only when one of the words `openers` is there, because
    a word lookup costs almost nothing.
    """

    category: str
    words: frozenset[str] = frozenset()
    marks: tuple[str, ...] = ()
    openers: frozenset[str] = frozenset()
    phrase: re.Pattern[str] | None = None

    def matches(self, text: str, found: frozenset[str]) -> bool:
        """text: in lower case. found: its words."""
        return (
            not self.words.isdisjoint(found)
            or any(mark in text for mark in self.marks)
            or (self.phrase is not None and not self.openers.isdisjoint(found) and self.phrase.search(text) is not None)
        )


def _rule(category: str, words: str = "", marks: str = "", openers: str = "", phrase: str = "") -> Rule:
    return Rule(
        category,
        frozenset(words.split()),
        tuple(marks.split()),
        frozenset(openers.split()),
        re.compile(phrase, re.VERBOSE) if phrase else None,
    )


_PROGRAMMING = (
    r"(?<!\w)(?:python|javascript|typescript|java|kotlin|scala|rust|golang|swift|ruby|php|perl|haskell|sql|bash|html"
    r"|css|react|c\+\+|c\#|matlab|terraform|dockerfile|regex)(?!\w)"
)
_ARTEFACT = (
    r"(?:\b(?:functions?|methods?|class(?:es)?|scripts?|programs?|code|snippets?|quer(?:y|ies)|algorithms?|unit\ tests?"
    rf"|bugs?|apis?|endpoints?|compilers?)\b|{_PROGRAMMING})"
)

# First match wins. Gaps within a phrase are bounded, so that matching stays linear in the text.
RULES: Final = (
    _rule(
        "code",
        openers="write implement create build code develop fix debug refactor optimize optimise review complete port",
        phrase=r"\b(?:write|implement|create|build|code|develop|fix|debug|refactor|optimi[sz]e|review|complete|port)\b"
        rf"[^.?!\n]{{0,60}}{_ARTEFACT}",
    ),
    _rule(
        "classify",
        words="classify classification categorize categorise sentiment klassifiziere clasifica classifie classifiez",
        marks="分类 分類",
        openers="category class label intent",
        phrase=r"\b(?:which|assign|choose|pick|select|give)\b[^.?!\n]{0,40}\b(?:category|class|label|intent)\b",
    ),
    _rule(
        "classify",
        openers="answer reply respond",
        phrase=r"\b(?:answer|reply|respond)\b[^.?!\n]{0,30}\b(?:one\ of|yes\ or\ no|true\ or\ false)\b",
    ),
    _rule(
        "extract",
        words="extract extrahiere extrais extrait extrae",
        marks="提取 抽取 抽出",
        openers="list find identify",
        phrase=r"\b(?:list|find|identify)\ (?:all|every|each)\b[^.?!\n]{0,60}\b(?:in|from|mentioned)\b",
    ),
    _rule(
        "summarize",
        words="summarize summarise summary summaries tldr résume résumer résumez zusammenfassung zusammenfassen",
        marks="总结 概括 要約 tl;dr",
    ),
    _rule(
        "code",
        words="traceback stacktrace",
        marks="``` #include </",
        openers="def function public class select",
        phrase=r"\bdef\ \w+\(|\bfunction\ \w*\(|\bpublic\ (?:static|class)\b"
        r"|\bselect\b[^;]{1,80}\bfrom\b[^;]{1,80}\b(?:where|join|group\ by)\b",
    ),
    _rule("code", openers="in using with", phrase=rf"\b(?:in|using|with)\ {_PROGRAMMING}"),
    _rule(
        "code",
        openers="compile compiler syntax type segmentation git npm pip docker",
        phrase=r"\b(?:compiler?|syntax|type|segmentation)\ ?(?:error|fault)\b"
        r"|\b(?:git|npm|pip|docker)\ (?:install|clone|commit|push|pull|rebase|merge|checkout|run|build)\b",
    ),
    _rule(
        "translate",
        words="translate translation übersetze übersetzen traduis traduire traduisez traduce traducir переведи",
        marks="翻译 翻譯 翻訳 번역",
        openers="say",
        phrase=r"\bhow\ (?:do|would)\ (?:you|i)\ say\b[^.?!\n]{0,60}\bin\b",
    ),
    _rule(
        "rewrite",
        words="rewrite rephrase reword paraphrase proofread",
        marks="改写 改寫 润色",
        openers="grammar spelling typos text wording paragraph sentence email essay draft",
        phrase=r"\b(?:fix|correct|check|improve|polish|edit|shorten)\b[^.?!\n]{0,30}"
        r"\b(?:grammar|spelling|typos|text|wording|paragraph|sentence|email|essay|draft)\b",
    ),
    _rule(
        "rewrite",
        openers="make",
        phrase=r"\bmake\ (?:this|it|the\ following)\b[^.?!\n]{0,20}\b(?:more|less|sound|shorter|concise)\b",
    ),
    _rule(
        "math",
        words="solve equation integral derivative theorem polynomial probability factorial calculate compute",
        marks="\\frac \\int \\sum \\sqrt \\begin{",
        openers="how what",
        phrase=r"\d[^?]{0,300}\bhow\ (?:many|much|far|long|old|fast)\b|\bhow\ (?:many|much)\b[^?]{0,200}\d"
        r"|\d\ ?%\ of\b",
    ),
)
ARITHMETIC: Final = re.compile(r"\d\s{0,3}[-+*/×÷^=]\s{0,3}\d")


def category_of(text: str) -> str | None:
    """The category of the first rule that matches, or None. Time is linear in the text: pass a bounded one."""
    text = text.lower()
    found = frozenset(words(text))
    for rule in RULES:
        if rule.matches(text, found):
            return rule.category
    return "math" if ARITHMETIC.search(text) else None
