"""What a release may change, who gets the canary, and how a version is booked."""

import uuid

import pytest
from pydantic import ValidationError

from routing.learning.release import Release, Variant, marked, version_of

STABLE = Variant(version=3, overrides={"policy": {"default_threshold": 0.4}})


def test_share_of_requests_gets_the_canary_and_the_same_ones_again() -> None:
    release = Release(stable=STABLE, canary=Variant(version=4), canary_ratio=0.25)
    ids = [uuid.uuid4().hex for _ in range(4000)]
    share = sum(release.variant_for(i).version == 4 for i in ids) / len(ids)
    assert 0.21 < share < 0.29
    assert [release.variant_for(i).version for i in ids] == [release.variant_for(i).version for i in ids]


def test_without_a_canary_everybody_gets_the_stable() -> None:
    release = Release(stable=STABLE, canary_ratio=1.0)
    assert release.variant_for("f" * 32) == STABLE


@pytest.mark.parametrize(
    "wrong",
    [
        {"stable": {"version": 1, "overrides": {"ledger": {"url": "x"}}}},
        {"stable": {"version": 1}, "canary": {"version": 1}},
        {"stable": {"version": 0}},
        {"stable": {"version": 1}, "canary_ratio": 1.5},
        {"stable": {"version": 1}, "colour": "blue"},
    ],
    ids=["a section that needs a restart", "one version twice", "version 0", "share over 1", "unknown key"],
)
def test_wrong_release_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Release.model_validate(wrong)


def test_version_is_read_back_from_what_was_booked() -> None:
    assert version_of(marked("c0ffee", 12)) == 12
    assert version_of("c0ffee") is None
    assert version_of("c0ffee.rx") is None
