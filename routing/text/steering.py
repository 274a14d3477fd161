"""Recognises sentences that try to steer the stack: "send this to the frontier", "use the cheapest model".

They are cut out before any rule reads a text, so that they change nothing but its length, and counted as abuse.
"""

import re
from typing import Final

from routing.text.request_body import edges, words

_NOUN = r"(?:models?|tiers?|llms?|engines?|apis?|providers?)\b"
_TARGET = (
    rf"(?:frontier\b(?:[\ -]*{_NOUN})?|tier[\ -]?(?:[123]|one|two|three)\b"
    r"|(?:most\ )?(?:cheap(?:er|est)?|expensive|strong(?:er|est)?|weak(?:er|est)?|big(?:ger|gest)?|large(?:r|st)?"
    r"|small(?:er|est)?|best|better|smart(?:er|est)?|premium|powerful|capable)[\ -]+(?:available\ |ai\ |language\ )?"
    rf"{_NOUN})"
)
_STEERING: Final = re.compile(
    rf"""
    (?:\b(?:and|then|but|please|kindly|you\ must|always|never|do\ not|don'?t|(?:can|could)\ you|i\ want\ you\ to)\ +)*
    (?:
        \b(?:route|send|forward|escalate|redirect|dispatch|assign)\b[^.?!\n]{{0,40}}
        \b(?:to|through|via)\b[^.?!\n]{{0,20}}\b{_TARGET}
      | \b(?:use|pick|choose|select|switch\ to|answer\ (?:with|from)|run\ (?:this\ )?on)\b
        \ (?:only\ )?(?:the\ |a\ |your\ )?{_TARGET}
      | \b(?:do\ not|don'?t|never)\ (?:escalate|downgrade)\b
      | \b(?:ignore|bypass|skip|override)\ (?:the\ |your\ |any\ )?(?:router|routing|gate|verdict|judge)\b
    )
    (?:[\ ,]*\b(?:please|now|only|this|it|me|rules?)\b)*
    [.!]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Every match holds one word of each set. The usual text has none, and a word lookup is cheap.
_VERBS: Final = frozenset(
    words(
        "route send forward escalate redirect dispatch assign use pick choose select switch answer run not don dont "
        "never ignore bypass skip override"
    )
)
_OBJECTS: Final = frozenset(
    words(
        "frontier tier cheap cheaper cheapest expensive strong stronger strongest weak weaker weakest big bigger "
        "biggest large larger largest small smaller smallest best better smart smarter smartest premium powerful "
        "capable escalate route downgrade router routing gate verdict judge"
    )
)


def steering_attempt(text: str) -> bool:
    """Whether a text asks the stack for a tier or to skip its checks. For the abuse counter, never for a decision.

    Reads the edges of a long text only.
    """
    text = edges(text)
    return _may_steer(text) and _STEERING.search(text) is not None


def without_steering(text: str) -> str:
    """The text without its steering sentences. Time is linear in the text: pass a bounded one."""
    return _STEERING.sub("", text).rstrip() if _may_steer(text) else text


def _may_steer(text: str) -> bool:
    found = set(words(text.lower()))
    return not (_VERBS.isdisjoint(found) or _OBJECTS.isdisjoint(found))
