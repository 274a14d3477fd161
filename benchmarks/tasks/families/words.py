"""Work on words: sort, pick, count. Lists that follow orders. Short phrases in another language."""

import random
import re

from benchmarks.tasks.task import Exact, Listing, Number, Question

# Texts of words, split once: a list of 66 quoted words would take a page.
_WORDS = tuple(
    re.findall(
        r"\w+",
        "apple river stone cloud garden window bridge candle forest silver copper violet market engine pencil harbor"
        " island meadow basket ladder mirror orange pepper rabbit saddle tunnel velvet walnut yellow zebra anchor"
        " barrel cactus desert eagle fabric guitar hammer igloo jacket kettle lemon magnet needle oyster paddle"
        " quartz rocket shadow tiger umbrella valley wagon acorn blanket cherry dragon ember feather glacier hollow"
        " ivory jungle kitten lantern marble",
    )
)

# Subject: examples, the right answer that a generator can name. Keys keep their order, from which questions are drawn.
_SUBJECTS = {
    "animals": "dog, cat, horse, cow, lion, elephant",
    "fruits": "apple, banana, pear, cherry, grape, plum",
    "colours": "red, blue, green, yellow, black, white",
    "countries": "France, Japan, Brazil, Canada, Egypt, India",
    "vegetables": "carrot, potato, onion, spinach, leek, cabbage",
    "rivers": "Nile, Amazon, Danube, Rhine, Thames, Volga",
    "sports": "football, tennis, hockey, rowing, boxing, golf",
    "professions": "teacher, nurse, baker, lawyer, pilot, farmer",
    "cities": "Paris, London, Tokyo, Madrid, Berlin, Rome",
    "musical instruments": "piano, violin, flute, drum, guitar, harp",
    "tools": "hammer, saw, drill, wrench, pliers, chisel",
    "trees": "oak, pine, birch, maple, willow, elm",
    "languages": "English, Spanish, French, German, Arabic, Hindi",
    "planets": "Mercury, Venus, Earth, Mars, Jupiter, Saturn",
    "metals": "iron, copper, gold, silver, zinc, lead",
    "pieces of furniture": "chair, table, bed, sofa, desk, shelf",
    "parts of the body": "head, arm, leg, hand, foot, nose",
    "things in a kitchen": "pan, knife, spoon, plate, cup, oven",
    "birds": "eagle, sparrow, owl, swan, robin, crow",
    "kinds of cloth": "cotton, silk, wool, linen, denim, velvet",
    "fish": "salmon, trout, tuna, cod, carp, herring",
    "insects": "ant, bee, fly, beetle, moth, wasp",
    "flowers": "rose, tulip, lily, daisy, orchid, iris",
    "drinks": "water, tea, coffee, milk, juice, lemonade",
    "desserts": "cake, pie, pudding, sorbet, brownie, custard",
    "herbs": "basil, mint, thyme, parsley, sage, dill",
    "spices": "pepper, cinnamon, cumin, nutmeg, ginger, saffron",
    "vehicles": "car, bus, train, truck, bicycle, tram",
    "board games": "chess, checkers, go, ludo, backgammon, monopoly",
    "school subjects": "mathematics, history, biology, music, physics, geography",
    "kinds of weather": "rain, snow, fog, hail, sunshine, wind",
    "household appliances": "fridge, oven, toaster, kettle, iron, dishwasher",
    "kinds of shoes": "boots, sandals, sneakers, slippers, loafers, clogs",
    "gemstones": "ruby, emerald, sapphire, diamond, topaz, opal",
    "mountains": "Everest, Kilimanjaro, Matterhorn, Fuji, Denali, Elbrus",
    "islands": "Crete, Sicily, Malta, Cuba, Iceland, Madagascar",
    "capital cities": "Paris, Rome, Tokyo, Cairo, Lima, Oslo",
    "dances": "waltz, tango, salsa, polka, rumba, foxtrot",
    "kinds of bread": "rye, baguette, ciabatta, pita, naan, sourdough",
    "farm animals": "cow, pig, sheep, goat, horse, chicken",
}
_SEPARATORS = ((";", "semicolons"), (",", "commas"))

# English and Spanish; "|" between forms that are both right. Feminine nouns take "la", the others "el".
_FEMININE = {
    "house": "casa", "table": "mesa", "door": "puerta", "street": "calle", "flower": "flor", "moon": "luna",
    "city": "ciudad", "shirt": "camisa", "window": "ventana", "apple": "manzana", "kitchen": "cocina", "chair": "silla",
    "school": "escuela", "letter": "carta", "star": "estrella", "church": "iglesia", "bottle": "botella",
    "spoon": "cuchara",
}  # fmt: skip
_MASCULINE = {
    "book": "libro", "dog": "perro", "car": "coche|carro|auto", "tree": "árbol", "sun": "sol", "hat": "sombrero",
    "shoe": "zapato", "cat": "gato", "horse": "caballo", "bread": "pan", "garden": "jardín", "river": "río",
    "bridge": "puente", "train": "tren", "bird": "pájaro", "cheese": "queso", "knife": "cuchillo",
}  # fmt: skip
# The masculine form; "o" becomes "a" beside a feminine noun.
_ADJECTIVES = {
    "red": "rojo", "white": "blanco", "black": "negro", "yellow": "amarillo", "new": "nuevo", "old": "viejo|antiguo",
    "small": "pequeño", "expensive": "caro", "beautiful": "hermoso|bonito|bello", "clean": "limpio", "green": "verde",
    "blue": "azul", "big": "grande", "cold": "frío", "dirty": "sucio", "broken": "roto", "long": "largo",
    "cheap": "barato",
}  # fmt: skip


def string(rng: random.Random, level: int) -> Question:
    """1: capital letters, or the first or last word. 2: three sorted words."""
    if level == 1:
        words = rng.sample(_WORDS, 4)
        shown = " ".join(words)
        choice = rng.randrange(3)
        if choice == 0:
            # Graded without case: what fails is a word too many or too few.
            return Question(f"Write the words in capital letters.\n\n{shown}", Exact(answers=(shown.upper(),)))
        which, word = [("first", words[0]), ("last", words[-1])][choice - 1]
        return Question(f"Which is the {which} word? Answer with the word only.\n\n{shown}", Exact(answers=(word,)))
    words = rng.sample(_WORDS, 3)
    return Question(
        "Sort the words alphabetically. Answer with the words separated by commas and nothing else.\n\n"
        f"{' '.join(words)}",
        Exact(answers=(", ".join(sorted(words)),)),
        max_tokens=20,
    )


def instruction(rng: random.Random, level: int) -> Question:
    """1: so many things of a kind between marks. 2: one word so many times."""
    n = rng.randint(3, 6)
    mark, name = rng.choice(_SEPARATORS)
    if level == 1:
        subject = rng.choice(tuple(_SUBJECTS))
        return Question(
            f"Name exactly {n} {subject}, separated by {name} ({mark}). Answer with the list only, on one line.",
            Listing(n_items=n, separator=mark, answer=f"{mark} ".join(_SUBJECTS[subject].split(", ")[:n])),
            max_tokens=32,
        )
    word = rng.choice(_WORDS)
    return Question(
        f'Write the word "{word}" exactly {n} times, separated by commas. Answer with the words only.',
        Exact(answers=(", ".join([word] * n),)),
        max_tokens=32,
    )


def translation(rng: random.Random, level: int) -> Question:
    """1: a noun with an adjective into Spanish."""
    article, nouns = rng.choice((("la", _FEMININE), ("el", _MASCULINE)))
    noun, adjective = rng.choice(list(nouns)), rng.choice(list(_ADJECTIVES))
    forms = _ADJECTIVES[adjective].split("|")
    if article == "la":
        forms = [f"{form[:-1]}a" if form.endswith("o") else form for form in forms]
    both = tuple(f"{article} {word} {form}" for word in nouns[noun].split("|") for form in forms)
    return Question(
        f"Translate into Spanish. Answer with the translation only.\n\nthe {adjective} {noun}",
        Exact(answers=both),
        max_tokens=16,
    )


def count(rng: random.Random, level: int) -> Question:
    """1: how often a word occurs in a line."""
    word, *others = rng.sample(_WORDS, 4)
    n = rng.randint(1, 3)
    line = [word] * n + [rng.choice(others) for _ in range(rng.randint(2, 4))]
    rng.shuffle(line)
    return Question(
        f'How often does the word "{word}" occur in the line? Answer with the number only.\n\n{" ".join(line)}',
        Number(value=n),
        max_tokens=8,
    )
