"""A function that a model wrote is run where it can only compute, and for a second."""

from pathlib import Path

import pytest

from benchmarks.tasks.sandbox import harmless, returns_all

REACHES_OUT = [
    "import os\ndef f(x):\n    return x",
    "def f(x):\n    return __import__('os').getpid()",
    "def f(x):\n    return ().__class__.__base__.__subclasses__()",
    "def f(x):\n    return '{0.__class__}'.format(x)",
    "async def f(x):\n    return x",
    "def f(x):\n    global y\n    return x",
    "def f(x: int -> int",
    "x = " + "(" * 5000,
]


@pytest.mark.parametrize("source", REACHES_OUT)
def test_what_could_reach_out_is_never_run(source: str) -> None:
    assert not harmless(source)
    assert not returns_all(source, "f", [([1], 1)])


@pytest.mark.parametrize("name", ["open", "eval", "exec", "getattr", "vars", "input"])
def test_dangerous_builtins_are_not_there(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    source = f"def f(x):\n    try:\n        {name}(x, 'w')\n    except TypeError:\n        pass\n    return 1"
    assert not returns_all(source, "f", [([str(marker)], 1)])
    assert not marker.exists()


@pytest.mark.parametrize(
    "body", ["while True:\n        pass", "return [0] * 10**9", "return f(x)", "return 10 ** 10 ** 10"]
)
def test_answer_that_never_ends_or_eats_memory_is_wrong(body: str) -> None:
    assert not returns_all(f"def f(x):\n    {body}", "f", [([1], 1)])


def test_function_that_computes_is_run() -> None:
    assert returns_all("def f(xs):\n    return sorted(set(xs))[:2]", "f", [([[3, 1, 1]], [1, 3])])
    assert not returns_all("def f(xs):\n    return 1", "f", [([[3]], True)])
