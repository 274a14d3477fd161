"""Every named error keeps the word of the tree in the module's docstring, and looks like OpenAI's on the wire."""

import copy
import inspect
import pickle
import re
from typing import NamedTuple

import pytest

from serving import errors
from serving.errors import FrontierRejected, StackError

CLASSES = [
    c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, StackError) and c is not StackError
]
LINE = re.compile(r"^(?P<indent>[│ ]*)[├└]── (?P<name>\w+) +(?P<status>\d{3}|4xx)\b")


class Node(NamedTuple):
    """One line of the drawn tree."""

    name: str
    status: str
    parent: str


def drawn_tree() -> list[Node]:
    """The tree of the module's docstring."""
    assert errors.__doc__ is not None
    path: list[str] = ["StackError"]
    nodes = []
    for line in errors.__doc__.splitlines():
        if (found := LINE.match(line)) is None:
            continue
        depth = len(found["indent"]) // 4 + 1
        path[depth:] = [found["name"]]
        nodes.append(Node(found["name"], found["status"], path[depth - 1]))
    return nodes


def test_drawn_tree_has_every_class_under_its_parent() -> None:
    drawn = {(node.name, node.parent) for node in drawn_tree()}
    assert drawn == {(c.__name__, c.__mro__[1].__name__) for c in CLASSES}
    assert len(drawn_tree()) == len(CLASSES)


@pytest.mark.parametrize("node", drawn_tree(), ids=lambda node: node.name)
def test_drawn_status_is_the_status_sent(node: Node) -> None:
    error = getattr(errors, node.name)("why")
    assert node.status in (str(error.http_status), f"{error.http_status // 100}xx")


@pytest.mark.parametrize("cls", [StackError, *CLASSES], ids=lambda cls: cls.__name__)
def test_every_error_has_openais_shape(cls: type[StackError]) -> None:
    body = cls("what was wrong", param="messages[0]").body()
    assert body == {"error": {"message": "what was wrong", "type": cls.type, "param": "messages[0]", "code": cls.code}}
    assert cls("x").body()["error"]["param"] is None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_a_code_of_its_own_made_for_programs(cls: type[StackError]) -> None:
    assert re.fullmatch(r"[a-z0-9_]+", cls.code)
    assert re.fullmatch(r"[a-z_]+_error", cls.type)
    assert [c for c in CLASSES if c.code == cls.code] == [cls]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_only_errors_that_may_pass_can_be_retried(cls: type[StackError]) -> None:
    """A 4xx is about the request itself, except for a busy stack and a key in use."""
    if cls.retryable:
        assert cls.status in (409, 429, 502, 503, 504)
    elif cls.status in (429, 502, 503, 504):
        pytest.fail(f"{cls.__name__} says {cls.status} and that a retry cannot help")


@pytest.mark.parametrize(
    ("upstream_status", "sent"),
    [(400, 400), (404, 404), (413, 413), (422, 422), (401, 502), (403, 502), (402, 502), (500, 502), (302, 502)],
)
def test_provider_status_is_passed_on_only_where_it_is_about_the_request(upstream_status: int, sent: int) -> None:
    """A provider's 401 or 403 is about our key: the caller must not take it for theirs."""
    assert FrontierRejected("no", upstream_status=upstream_status).http_status == sent


@pytest.mark.parametrize("cls", [StackError, *CLASSES], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy], ids=["pickle", "copy"])
def test_error_crosses_a_process_border_with_its_attributes(cls: type[StackError], copied: object) -> None:
    """Replicas raise them in processes of their own."""
    error = cls("why", param="n")
    error.retry_after_s = 2.5
    if isinstance(error, FrontierRejected):
        error.upstream_status = 422
    other = copied(error)  # type: ignore[operator]
    assert type(other) is cls
    assert (other.args, vars(other)) == (error.args, vars(error))
    assert other.http_status == error.http_status
    assert other.body() == error.body()
