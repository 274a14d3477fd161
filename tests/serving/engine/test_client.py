"""What comes out of a handle, as our own errors; the tiers themselves are tested end to end."""

import pickle

import pytest
import ray.exceptions
import ray.serve.exceptions
from ray.exceptions import RayTaskError

from serving.engine.client import from_ray
from serving.errors import InvalidRequest, QueueFull, RouterFailed, Tier1Failed


def ray_error_classes() -> list[type[Exception]]:
    found = [*vars(ray.exceptions).values(), *vars(ray.serve.exceptions).values()]
    errors = [e for e in found if isinstance(e, type) and issubclass(e, Exception) and e is not RayTaskError]
    return sorted(set(errors), key=lambda e: e.__name__)


@pytest.mark.parametrize("theirs", ray_error_classes(), ids=lambda e: e.__name__)
def test_every_exception_of_ray_is_translated(theirs: type[Exception]) -> None:
    error = theirs.__new__(theirs)  # their constructors want a running cluster
    ours = from_ray(error, RouterFailed)
    assert type(ours) is (QueueFull if theirs is ray.serve.exceptions.BackPressureError else RouterFailed)


def remote(cause: Exception) -> RayTaskError:
    """An exception as it comes out of another process."""
    return RayTaskError("draft", "traceback of the replica", pickle.loads(pickle.dumps(cause)))


def test_error_of_the_replica_arrives_whole() -> None:
    cause = QueueFull("full", retry_after_s=2.5)
    ours = from_ray(remote(cause), Tier1Failed)
    assert (type(ours), ours.message, ours.retry_after_s) == (QueueFull, "full", 2.5)
    refusal = from_ray(remote(InvalidRequest("too hot", param="temperature")), Tier1Failed)
    assert (type(refusal), refusal.param) == (InvalidRequest, "temperature")


def test_error_sent_without_ray_around_it_arrives_too() -> None:
    cause = InvalidRequest("no", param="n")
    assert from_ray(cause, Tier1Failed) is cause


def test_failed_probe_of_the_router_is_the_routers_failure() -> None:
    assert type(from_ray(remote(Tier1Failed("the engine is dead")), RouterFailed)) is RouterFailed


def test_bug_in_the_replica_shows_its_class_and_nothing_else() -> None:
    """An exception's text may hold the prompt."""
    ours = from_ray(remote(KeyError("words of the user")), Tier1Failed)
    assert (type(ours), ours.message) == (Tier1Failed, "the replica failed: KeyError")
