"""Support tickets of an imaginary shop, each of one class. The words of a class are spread over many phrasings."""

import random

from benchmarks.tasks.task import Exact, Question

CLASSES = ("billing", "shipping", "account", "technical", "returns", "praise")

_OPENINGS = ("Hello,", "Hi there,", "Good morning,", "Dear team,", "Hey,", "Hello support,", "")
_ENDINGS = (
    "Thanks.",
    "Please help.",
    "Kind regards",
    "Please answer soon.",
    "Thank you in advance.",
    "Best wishes",
    "",
)
_THINGS = ("lamp", "desk", "kettle", "tent", "camera", "printer", "bicycle", "heater", "keyboard", "monitor", "drill")
# {thing}, {n}: filled in. The second half of each class names neither the class nor its usual words.
_TEXTS = {
    "billing": (
        "the invoice for my {thing} shows {n} dollars too much.",
        "I was charged twice for order {n}.",
        "my card was debited {n} dollars but I see no receipt.",
        "why does the amount differ from the {n} dollars on the price tag of the {thing}?",
        "you took {n} dollars from me this month although I had cancelled before.",
        "the discount of {n} percent was not applied to what I paid for the {thing}.",
    ),
    "shipping": (
        "my {thing} has still not arrived after {n} days.",
        "where is parcel {n}? The tracking page has not changed since Monday.",
        "the courier left my {thing} with a neighbour I do not know.",
        "I have been waiting for my {thing} for {n} days now.",
        "can you bring the {thing} to my office at number {n} instead?",
        "the driver never rang, and the box with the {thing} is gone.",
    ),
    "account": (
        "I cannot log in any more, my password is refused.",
        "please change my email address, the old one ends in {n}.",
        "how do I delete my profile, number {n}?",
        "I do not get the code that I need to sign in.",
        "my sister has married; please put her new surname on customer {n}.",
        "somebody else seems to use my name on your site, user {n}.",
    ),
    "technical": (
        "the {thing} does not switch on, the light only blinks {n} times.",
        "your app shows error {n} whenever I open it.",
        "my {thing} makes a loud noise and stops after {n} minutes.",
        "the {thing} loses its connection every {n} minutes.",
        "after the update to version {n} the screen stays black.",
        "the manual says to press the button for {n} seconds, but nothing happens on my {thing}.",
    ),
    "returns": (
        "I want to send the {thing} back and get my money back.",
        "how can I exchange the {thing} of order {n} for a bigger one?",
        "the {thing} is the wrong colour, I would like to return it.",
        "I changed my mind about the {thing} I got {n} days ago. To which address do I post it?",
        "I bought two by mistake; one {thing} is unopened and you may have it again.",
        "I do not like the {thing}. Is the period of {n} days for giving it back over?",
    ),
    "praise": (
        "I just want to say that the {thing} is wonderful.",
        "great service, your colleague solved it within {n} minutes!",
        "thank you for the {thing}, my family loves it.",
        "after {n} years as a customer I am happier than ever.",
        "never had a better {thing} in {n} years, keep it up!",
        "the nice note in the box with the {thing} made my day.",
    ),
}


def ticket(rng: random.Random, level: int) -> Question:
    """1: the plain phrasings of a class. 2: those that name neither the class nor its usual words."""
    label = rng.choice(CLASSES)
    texts = _TEXTS[label]
    text = rng.choice(texts[:3] if level == 1 else texts[3:]).format(thing=rng.choice(_THINGS), n=rng.randint(2, 60))
    letter = " ".join(part for part in (rng.choice(_OPENINGS), text, rng.choice(_ENDINGS)) if part)
    return Question(
        f"Classify the support ticket as one of: {', '.join(CLASSES)}. Answer with the class only.\n\n{letter}",
        Exact(answers=(label,)),
        max_tokens=8,
    )
