"""Tells scripts apart by their characters, and languages by script or by common words where that is clear.

Nothing is guessed: an unclear text has no script and no language (None).
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from routing.records import Api
from routing.text.request_body import edges, last_user_text, texts_of, words


class Script(StrEnum):
    """A writing system, as far as it tells languages apart."""

    LATIN = "latin"
    GREEK = "greek"
    CYRILLIC = "cyrillic"
    ARMENIAN = "armenian"
    HEBREW = "hebrew"
    ARABIC = "arabic"
    DEVANAGARI = "devanagari"
    BENGALI = "bengali"
    TAMIL = "tamil"
    TELUGU = "telugu"
    THAI = "thai"
    GEORGIAN = "georgian"
    HANGUL = "hangul"
    KANA = "kana"  # Japanese: kana, alone or mixed with Han
    HAN = "han"  # Chinese: Han without kana


# Unicode blocks that hold letters, in order. A character in no range is not a letter.
RANGES: tuple[tuple[int, int, Script], ...] = (
    (0x41, 0x5A, Script.LATIN),
    (0x61, 0x7A, Script.LATIN),
    (0xC0, 0x24F, Script.LATIN),
    (0x370, 0x3FF, Script.GREEK),
    (0x400, 0x52F, Script.CYRILLIC),
    (0x530, 0x58F, Script.ARMENIAN),
    (0x591, 0x5F4, Script.HEBREW),
    (0x610, 0x6D5, Script.ARABIC),
    (0x750, 0x77F, Script.ARABIC),
    (0x900, 0x97F, Script.DEVANAGARI),
    (0x980, 0x9FF, Script.BENGALI),
    (0xB80, 0xBFF, Script.TAMIL),
    (0xC00, 0xC7F, Script.TELUGU),
    (0xE01, 0xE4E, Script.THAI),
    (0x10A0, 0x10FF, Script.GEORGIAN),
    (0x1100, 0x11FF, Script.HANGUL),
    (0x1E00, 0x1EFF, Script.LATIN),
    (0x1F00, 0x1FFF, Script.GREEK),
    (0x3041, 0x30FA, Script.KANA),
    (0x3400, 0x4DBF, Script.HAN),
    (0x4E00, 0x9FFF, Script.HAN),
    (0xAC00, 0xD7A3, Script.HANGUL),
    (0xF900, 0xFAFF, Script.HAN),
    (0x20000, 0x323AF, Script.HAN),
)
STARTS = [start for start, _, _ in RANGES]

# One character of these says about as much as three letters of an alphabet, so it counts three times.
DENSE = {Script.HAN, Script.KANA, Script.HANGUL}
DENSE_WEIGHT = 3
CLEAR_SHARE = 0.8  # of all letters in one script
CLEAR_LETTERS = 8  # fewer say nothing: "OK", a name, an abbreviation

# Scripts that one language of wide use owns.
LANGUAGE_OF = {
    Script.GREEK: "el",
    Script.ARMENIAN: "hy",
    Script.HEBREW: "he",
    Script.BENGALI: "bn",
    Script.TAMIL: "ta",
    Script.TELUGU: "te",
    Script.THAI: "th",
    Script.GEORGIAN: "ka",
    Script.HANGUL: "ko",
    Script.KANA: "ja",
    Script.HAN: "zh",
}

# Frequent function words, for scripts that several languages share.
_COMMON_WORDS: dict[Script, dict[str, str]] = {
    Script.LATIN: {
        "en": "the of and to in on is are was that this what which how why with for from you your it my have has can "
        "does do not be an as at by or if they we he she his her there would should but will so",
        "de": "der die das und ist nicht ein eine einen einem dem den des mit für auf von zu wie was ich du sie wir es "
        "in im an auch sind wird kann bitte warum zum zur so",
        "fr": "le la les un une des et est que qui dans pour avec pas ne je vous nous il elle sur au aux du ce cette "
        "de en se on comment pourquoi quel quelle sont mon ma",
        "es": "el la los las un una es que en para con no por cómo qué cuál de del al se su lo más esta este son como "
        "me mi está porque cuando pero muy ha han hay dos",
        "it": "il lo la gli le un una che di per con non come cosa qual in del della dei nel nella sono questo questa "
        "se perché mi più",
        "pt": "os as um uma que em para com não por como qual de do da dos das no na se seu sua mais este esta são me "
        "você está porque quando mas muito ela ele",
        "nl": "de het een en is niet van in op met voor dat wat hoe ik je jij wij zijn wordt kan naar ook er aan om of "
        "waarom deze dit was had",
    },
    Script.CYRILLIC: {
        "ru": "и в не на что как это я с по из для ты мы он она или но есть был почему какой мне все так меня чем",
        "uk": "і в не на що як це я з по із для ти ми він вона або але є був чому який мені все так мене та",
        "bg": "и в не на че как това аз с по от за ти ние той тя или но има беше защо какъв ми всичко така са да",
    },
    Script.DEVANAGARI: {
        "hi": "है हैं के का की में और को से क्या यह कैसे पर नहीं था एक",
        "mr": "आहे आहेत आणि काय मध्ये हे ते कसे नाही होते एक या",
    },
}
COMMON_WORDS = {
    script: {code: frozenset(common.split()) for code, common in languages.items()}
    for script, languages in _COMMON_WORDS.items()
}
SHARED_BY = {
    script: Counter(word for common in languages.values() for word in common)
    for script, languages in COMMON_WORDS.items()
}
MIN_COMMON_WORDS = 3  # different ones before a language counts as clear
MIN_COMMON_SHARE = 0.1  # of all different words. Formulas and lists of names have next to none
CLEAR_FACTOR = 2  # times as many hits as the runner-up
PERSIAN_LETTERS = frozenset("پچژگ")
URDU_LETTERS = frozenset("ٹڈڑںے")


def script_weights(text: str) -> Counter[Script]:
    """Letters by script, a dense character counting three times. Han beside kana counts as kana."""
    weights: Counter[Script] = Counter()
    for char, count in Counter(text).items():
        code = ord(char)
        at = bisect_right(STARTS, code) - 1
        if at >= 0 and code <= RANGES[at][1]:
            script = RANGES[at][2]
            weights[script] += count * (DENSE_WEIGHT if script in DENSE else 1)
    if weights[Script.KANA] * 10 >= weights[Script.HAN]:
        weights[Script.KANA] += weights.pop(Script.HAN, 0)
    return +weights


def clear_script(text: str) -> Script | None:
    """The script of a text, or None when it has too few letters or mixes scripts."""
    weights = script_weights(text)
    if not weights:
        return None
    script, weight = weights.most_common(1)[0]
    return script if weight >= CLEAR_LETTERS and weight >= CLEAR_SHARE * weights.total() else None


def common_word_hits(text: str, script: Script) -> dict[str, float]:
    """Different common words in a text, by language of a script. A word that n languages share counts 1/n for each."""
    found = set(words(text.lower()))
    shared_by = SHARED_BY.get(script, Counter())
    return {
        code: sum((1 / shared_by[word] for word in common & found), 0.0)
        for code, common in COMMON_WORDS.get(script, {}).items()
    }


def language(text: str) -> str | None:
    """ISO 639-1 code of a text when it is clear, else None. Reads the edges of a long text only."""
    text = edges(text)
    script = clear_script(text)
    if script is None:
        return None
    if script in LANGUAGE_OF:
        return LANGUAGE_OF[script]
    if script is Script.ARABIC:
        letters = set(text)
        if letters & URDU_LETTERS:
            return "ur"
        if letters & PERSIAN_LETTERS:
            return "fa"
        return "ar" if "ال" in text else None
    ranked = sorted(common_word_hits(text, script).items(), key=lambda hit: hit[1], reverse=True)
    if len(ranked) < 2:
        return None
    (first, most), (_, next_most) = ranked[:2]
    clear = most >= max(MIN_COMMON_WORDS, CLEAR_FACTOR * next_most, MIN_COMMON_SHARE * len(set(words(text))))
    return first if clear else None


# A request that names a language, or asks for a translation, may be answered in any.
_NAMES_LANGUAGE = re.compile(
    r"\b(?:english|german|french|spanish|italian|portuguese|dutch|russian|ukrainian|polish|turkish|arabic|persian|hindi"
    r"|chinese|mandarin|cantonese|japanese|korean|thai|vietnamese|greek|hebrew|latin|swedish|language|languages"
    r"|translat\w*|englisch|deutsch|französisch|spanisch|anglais|allemand|français|espagnol|inglés|alemán|francés"
    r"|español|inglese|tedesco|inglês|английск\w*|немецк\w*|русск\w*|sprache|langue|idioma|lingua)\b"
    r"|英文|英语|英語|中文|汉语|日文|日语|日本語|韩文|韩语|法语|德语|俄语|西班牙语|翻译|翻譯|翻訳|语言|영어|한국어|일본어|중국어|번역"
)
_NOT_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
ANSWER_LETTERS = 24  # fewer letters of prose are a name or a number
FOREIGN_LETTERS = 12  # this many in a request show that it holds the other script
FOREIGN_WORDS = 3  # different common words of the other language do so where the script is the same


def switched_language(body: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer is in a script or language that its request never used, without having been asked to.

    Only clear cases count. Both scripts must be clear. The request must name no language, hold next to nothing in the
    answer's script, and neither begin nor end in it. No earlier answer of the conversation may have been in it.
    """
    api = Api.CHAT if "messages" in body else Api.COMPLETIONS
    request = edges(last_user_text(body, api))
    prose = _NOT_PROSE.sub(" ", edges(answer))
    asked, got = clear_script(request), clear_script(prose)
    if asked is None or got is None or script_weights(prose)[got] < ANSWER_LETTERS:
        return False
    if asked is got:
        ours, theirs = language(request), language(prose)
        if ours is None or theirs is None or ours == theirs:
            return False
        words_of = COMMON_WORDS.get(asked, {})
        only_theirs = words_of.get(theirs, frozenset()) - words_of.get(ours, frozenset())
        if len(only_theirs.intersection(words(request.lower()))) >= FOREIGN_WORDS:
            return False
        earlier = {language(text) for text in texts_of("assistant", body)}
        return theirs not in earlier and not _names_language(body, request)
    if script_weights(request)[got] >= FOREIGN_LETTERS or got in (_script_at(request, 0), _script_at(request, -1)):
        return False
    earlier_scripts = {clear_script(edges(text)) for text in texts_of("assistant", body)}
    return got not in earlier_scripts and not _names_language(body, request)


def _script_at(text: str, at: int) -> Script | None:
    """The script of the first (0) or last (-1) word."""
    found = words(text)
    return next(iter(script_weights(found[at]).most_common(1)), (None, 0))[0] if found else None


def _names_language(body: Mapping[str, Any], request: str) -> bool:
    system = edges("\n".join(texts_of("system", body)))
    return _NAMES_LANGUAGE.search(f"{system}\n{request}".lower()) is not None
