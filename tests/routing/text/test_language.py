from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.language import STARTS, Script, clear_script, language, script_weights, switched_language

TEXTS = {
    "en": "The bridge was closed because two of its cables had rusted, and it is not clear when it will open.",
    "de": "Die Brücke ist gesperrt, weil zwei der Kabel verrostet sind, und es ist nicht klar, wann sie öffnet.",
    "fr": "Le pont est fermé parce que deux des câbles ont rouillé, et on ne sait pas quand il va rouvrir.",
    "es": "El puente está cerrado porque dos de los cables se han oxidado y no se sabe cuándo va a abrir.",
    "it": "Il ponte è chiuso perché due dei cavi sono arrugginiti e non si sa quando la città lo riaprirà.",
    "pt": "A ponte está fechada porque dois dos cabos enferrujaram, e não se sabe quando ela vai abrir para os carros.",
    "nl": "De brug is gesloten omdat twee van de kabels verroest zijn, en het is niet duidelijk wanneer ze open gaat.",
    "ru": "Мост закрыт, потому что два троса заржавели, и не ясно, когда он откроется для машин.",
    "uk": "Міст закрито, бо два троси заіржавіли, і не ясно, коли він відкриється для машин та людей.",
    "el": "Η γέφυρα έκλεισε επειδή δύο από τα καλώδια σκούριασαν.",
    "he": "הגשר נסגר כי שניים מהכבלים החלידו.",
    "ar": "تم إغلاق الجسر لأن اثنين من الكابلات قد صدئا.",
    "fa": "پل بسته شد چون دو تا از کابل‌ها زنگ زده بودند.",
    "ur": "پل بند کر دیا گیا ہے کیونکہ دو تاریں زنگ آلود ہو گئی ہیں۔",
    "hi": "पुल बंद है क्योंकि उसके दो तार जंग खा गए हैं और यह नहीं पता कि कब खुलेगा।",
    "th": "สะพานถูกปิดเพราะสายเคเบิลสองเส้นเป็นสนิม",
    "ko": "케이블 두 개가 녹슬어서 다리가 폐쇄되었습니다.",
    "ja": "ケーブルが二本錆びたため、橋は閉鎖されました。",
    "zh": "因为两根缆绳生锈，大桥已经关闭，何时重新开放还不清楚。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_clear_texts_have_a_language(code: str) -> None:
    assert language(TEXTS[code]) == code


@pytest.mark.parametrize(
    "text",
    [
        "",
        "OK",
        "42 + 17 = 59",
        "Berlin Paris London Madrid Roma Lisboa",
        "Kubernetes deployment nginx ingress controller",
        "$u = \\log(9 - x)$, $du = -\\frac{1}{9 - x} dx$, $e^{u} = 9 - x$",
        "😀😀😀",
        f"{TEXTS['ru']} {TEXTS['zh']} {TEXTS['en']}",
    ],
)
def test_what_is_not_clear_has_none(text: str) -> None:
    assert language(text) is None


@pytest.mark.slow
@given(st.text(max_size=300))
def test_any_text_has_a_script_or_none(text: str) -> None:
    script = clear_script(text)
    assert script is None or script_weights(text)[script] > 0
    assert language(text) is None or script is not None


def test_ranges_are_in_order() -> None:
    assert sorted(STARTS) == STARTS


def test_kana_claims_the_han_characters_of_japanese() -> None:
    assert clear_script("橋は春に閉鎖されました") is Script.KANA
    assert clear_script("大桥在春天关闭了") is Script.HAN


MORE_FRENCH = "Pourquoi est-ce que nous ne sommes pas avec elle dans une ville qui est pour vous ? Il est sur le mont."


def chat(request: str, system: str | None = None, earlier: str | None = None) -> dict[str, Any]:
    messages = [{"role": "system", "content": system}] if system else []
    if earlier:
        messages += [{"role": "user", "content": request}, {"role": "assistant", "content": earlier}]
    return {"messages": [*messages, {"role": "user", "content": request}]}


SWITCHED = [(asked, got) for asked in TEXTS for got in TEXTS if asked != got]


@pytest.mark.parametrize(("asked", "got"), SWITCHED)
def test_an_answer_in_a_language_that_the_request_never_used_is_noticed(asked: str, got: str) -> None:
    assert switched_language(chat(TEXTS[asked]), TEXTS[got])


@pytest.mark.parametrize("code", TEXTS)
def test_an_answer_in_the_request_s_language_passes(code: str) -> None:
    assert not switched_language(chat(TEXTS[code]), TEXTS[code])
    assert not switched_language({"prompt": TEXTS[code]}, TEXTS[code])


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (chat("Who wrote Faust, and when was it written?", system="Always answer in German."), TEXTS["de"]),
        (chat("Say in Chinese that the bridge is closed"), TEXTS["zh"]),
        (chat("请用英文介绍一下这座大桥的历史。"), TEXTS["en"]),
        (chat(f"Summarize: {TEXTS['zh'] * 5}"), TEXTS["en"]),
        (chat(f"Summarize what the article below says about it: {TEXTS['fr'] * 5}"), TEXTS["en"]),
        (chat(f"{TEXTS['ru'] * 3}\nTL;DR"), TEXTS["en"]),
        (chat(f"{TEXTS['zh'] * 4} TensorFlow Serving {TEXTS['zh']}"), TEXTS["en"]),
        (chat(f"{TEXTS['fr']} {MORE_FRENCH} what would they"), TEXTS["en"]),
        (chat(TEXTS["zh"], earlier=TEXTS["en"]), TEXTS["en"]),
        (chat("东京的首都机场叫什么名字？请告诉我。"), "Haneda"),  # a name
        (
            chat("用一行代码反转一个列表，不需要解释，谢谢。"),
            "```python\nreversed_items = items[::-1]  # the whole list\n```",
        ),
        (chat("hi"), TEXTS["zh"]),  # too short to be clear
        (chat(TEXTS["en"]), "42"),
        (chat(TEXTS["en"]), ""),
        ({}, TEXTS["en"]),
    ],
)
def test_an_answer_that_may_be_in_another_language_passes(body: dict[str, Any], answer: str) -> None:
    assert not switched_language(body, answer)
