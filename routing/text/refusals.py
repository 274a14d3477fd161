"""Recognises a draft that refuses, by its opening. A quotation, a letter of refusal or an aside is no refusal."""

import re
from typing import Final

REFUSAL_MAX_CHARS: Final = 500  # a longer text that opens like a refusal goes on to help
OPENING_CHARS: Final = 240  # in which an opening shows

_SORRY_EN = (
    r"(?:(?:i'm|i am|we're|we are)\s(?:so |very |really |truly )?sorry|sorry|i apologi[sz]e|my apologies|unfortunately)"
)
_AS_AI_EN = r"as an? (?:ai|artificial intelligence|large language|language)[\w ]{0,40}"
_CANNOT_EN = (
    r"i(?:'m| am)? (?:can't|cannot|can not|won't|will not|unable to|not able to|must decline to|must refuse to"
    r"|do not feel comfortable|don't feel comfortable)"
)
_PREFIX_EN = rf"(?:(?:{_SORRY_EN}|{_AS_AI_EN})[,.;:]? *(?:but |however,? |and )?)*"

# Refusals of the request as a whole, to the end of the clause: nothing that follows can help.
_WHOLE: Final = (
    rf"{_PREFIX_EN}{_CANNOT_EN} (?:\w+ )?"
    r"(?:help|assist|comply|fulfil|fulfill|answer|respond|continue|engage|do|provide)"
    r"(?: you)?(?: (?:with|to|in))?(?: (?:that|this|it|your|the|such|any))?"
    r"(?: (?:request|question|topic|conversation|matter|task|kind|type)s?)?[.!,;\n]",
    r"(?:非常|很)?(?:抱歉|对不起|不好意思)[,，。!！ ]*(?:但)?我(?:无法|不能|不可以)\w{0,4}"
    r"(?:帮助|协助|满足|回答|完成)(?:您|你)?(?:的)?(?:这个|该|此)?(?:请求|问题|要求)?[。,，!！\n]",
)
# Openings of which the rest of a short text makes a refusal.
_OPENING: Final = (
    rf"{_PREFIX_EN}{_CANNOT_EN} (?!help (?:but|noticing|feeling|wondering)|stress|emphasi[sz]e|wait|recommend)",
    rf"{_AS_AI_EN},? i (?:don't|do not|can't|cannot|am)",
    r"(?:i'm|i am) sorry,? but (?:as an|i|this|that|the)",
    r"(?:非常|很)?(?:抱歉|对不起|不好意思)[,，。!！ ]*(?:但是?|作为[^。\n]{0,30})?我?(?:无法|不能|没有办法|不会)",
    r"作为(?:一[个名款])?(?:ai|人工智能)[^。\n]{0,20}我(?:无法|不能|没有)",
    r"我(?:无法|不能)(?:提供|帮助|协助|回答|满足|执行)",
    r"(?:申し訳(?:ありません|ございません|ない)|すみません|ごめんなさい)[^。\n]{0,60}(?:できません|できかね|いたしかねます)",
    r"(?:죄송|미안)[^.\n]{0,60}(?:수 없|어렵|못)",
    r"(?:je suis )?(?:désolée?|navrée?)[,.]? (?:mais )?je ne (?:peux|puis|suis)",
    r"je ne (?:peux|puis) pas (?:vous |t'|te )?(?:aider|assister|répondre|fournir|satisfaire)",
    r"(?:lo siento|disculpa|perdona|lamentablemente)[,.]? (?:pero )?no (?:puedo|soy capaz)",
    r"no puedo (?:ayudar|asistir|proporcionar|cumplir|responder)",
    r"(?:(?:es )?tut mir leid|entschuldigung|leider)[,.]? (?:aber )?(?:kann ich|ich kann|darf ich|ich darf)\b"
    r"[^.\n]{0,60}\b(?:nicht|keine?n?)\b",
    r"(?:mi dispiace|purtroppo)[,.]? (?:ma )?non (?:posso|sono in grado)",
    r"(?:desculpe|sinto muito|lamento|infelizmente)[,.]? (?:mas )?(?:eu )?não (?:posso|consigo)",
    r"(?:het spijt me|helaas|sorry)[,.]? (?:maar )?(?:ik kan|kan ik)\b[^.\n]{0,60}\b(?:niet|geen)\b",
    r"(?:извините|простите|к сожалению|прошу прощения)[,.]? (?:но )?я не (?:могу|могла|смогу)",
    r"(?:вибачте|на жаль)[,.]? (?:але )?я не можу",
    r"(?:عذر[اًا]*|آسف|أعتذر)[،,.]? (?:ولكن |لكن )?(?:لا |ل[اأ] )(?:أستطيع|يمكنني)",
    r"(?:मुझे खेद है|क्षमा करें)",
)
_WHOLE_RE: Final = re.compile("|".join(f"(?:{p})" for p in _WHOLE))
_OPENING_RE: Final = re.compile("|".join(f"(?:{p})" for p in _OPENING))


def opening(text: str) -> str:
    """The start of a text as the patterns read it: lower case, straight apostrophes, no leading space."""
    return text[: 2 * OPENING_CHARS].lstrip()[:OPENING_CHARS].lower().replace("’", "'")


def refuses_everything(text: str) -> bool:
    """Whether a text opens by refusing the request as a whole. Once true, it stays true as the text grows."""
    return _WHOLE_RE.match(opening(text)) is not None


def is_refusal(text: str) -> bool:
    """Whether a complete text is a refusal: it refuses everything, or is short and opens like one."""
    start = opening(text)
    if _WHOLE_RE.match(start):
        return True
    return len(text) <= REFUSAL_MAX_CHARS and _OPENING_RE.match(start) is not None
