import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.refusals import REFUSAL_MAX_CHARS, is_refusal, refuses_everything

# Opening, and whether it refuses the request as a whole, so that a draft is lost at once.
REFUSALS = [
    ("I'm sorry, but I can't assist with that.", True),
    ("I’m sorry, but I can’t help with that request.", True),
    ("I cannot fulfill this request.", True),
    ("I can't help you with that, since it is private.", True),
    ("Sorry, I am unable to comply.", True),
    ("Unfortunately, I'm not able to provide that.", True),
    ("  I apologize, but I won't be able to do that.", False),
    ("As an AI language model, I cannot engage in this conversation.", True),
    ("I must decline to answer this question.", True),
    ("抱歉，我无法帮助您完成这个请求。", True),
    ("I'm sorry, but I can't open files.", False),
    ("As an AI language model, I don't have opinions.", False),
    ("I cannot browse the web.", False),
    ("很抱歉，我不能提供这方面的信息。", False),
    ("作为一个人工智能助手，我无法回答这个问题。", False),
    ("我无法提供医疗建议。", False),
    ("申し訳ありませんが、そのご要望にはお応えできません。", False),
    ("죄송하지만 그 요청은 도와드릴 수 없습니다.", False),
    ("Je suis désolé, mais je ne peux pas répondre à cette demande.", False),
    ("Lo siento, pero no puedo ayudar con eso.", False),
    ("Es tut mir leid, aber ich kann dir dabei nicht helfen.", False),
    ("Leider kann ich dazu keine Auskunft geben.", False),
    ("Mi dispiace, ma non posso aiutarti.", False),
    ("Desculpe, mas não posso ajudar com isso.", False),
    ("Het spijt me, maar ik kan daar niet bij helpen.", False),
    ("Извините, но я не могу помочь с этим.", False),
    ("На жаль, я не можу відповісти.", False),
    ("عذراً، لا أستطيع المساعدة في ذلك.", False),
    ("मुझे खेद है, मैं इसमें मदद नहीं कर सकता।", False),
]
ANSWERS = [
    "",
    "The capital of France is Paris.",
    "\"I'm sorry, but I can't help with that\" is a typical refusal.",
    "Typical refusals open with: I'm sorry, but I can't help with that.",
    "I'm sorry to hear about your loss. Take your time, and talk to people you trust.",
    "I can help you with that.",
    "I can't help but admire how the poem ends.",
    "I cannotate my drawings by hand.",
    "Dear Ms Miller, unfortunately we cannot offer you the position.",
    "Sorry for the delay! Here is the list.",
    "Unfortunately, the museum is closed on Mondays.",
    "Je suis désolé pour votre perte. Voici la réponse.",
    "Lo siento mucho por tu pérdida.",
    "Leider ist das Museum montags geschlossen.",
    "抱歉让您久等了。答案是四。",
    "我无论如何都会去北京。",
]
HELP = " Here is what you can do instead: call the office, ask for the form, and send it back by Friday." * 6


@pytest.mark.parametrize(("text", "whole"), REFUSALS)
def test_a_refusal_shows_in_its_opening(text: str, whole: bool) -> None:
    assert is_refusal(text)
    assert refuses_everything(text) == whole


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)
    assert not refuses_everything(text)


@pytest.mark.parametrize(("text", "whole"), REFUSALS)
def test_a_long_text_that_goes_on_to_help_is_a_refusal_only_if_it_refused_everything(text: str, whole: bool) -> None:
    assert len(text + HELP) > REFUSAL_MAX_CHARS
    assert is_refusal(text + HELP) == whole


@pytest.mark.parametrize(("text", "whole"), REFUSALS)
def test_a_refusal_further_down_is_none(text: str, whole: bool) -> None:
    assert not is_refusal("Here is the list you asked for. " + text)


@given(text=st.sampled_from([t for t, _ in REFUSALS] + ANSWERS), rest=st.text(max_size=300), at=st.integers(0, 80))
def test_a_refusal_of_everything_never_changes_back_as_the_text_grows(text: str, rest: str, at: int) -> None:
    whole = text + rest
    if refuses_everything(whole[:at]):
        assert refuses_everything(whole)


@given(rest=st.text(max_size=2000), text=st.sampled_from([t for t, whole in REFUSALS if whole]))
def test_what_refuses_everything_is_a_refusal_whatever_follows(text: str, rest: str) -> None:
    assert is_refusal(text + rest)
