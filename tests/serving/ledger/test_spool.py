"""Rows on disk while the database is away: all there, in order, whoever died in between."""

import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.ledger.spool import SUFFIX, Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool")
    yield spool
    spool.close()


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "spool").glob("*"))


def read_all(spool: Spool, n_lines: int = 2) -> list[bytes]:
    """Peek and commit until nothing is left."""
    lines: list[bytes] = []
    while block := spool.peek(n_lines):
        lines += block
        spool.commit()
    return lines


def test_lines_come_back_in_order_and_the_file_goes(spool: Spool, tmp_path: Path) -> None:
    spool.append([b"1", b"2", b"3"], sync=True)
    spool.append([b"4"], sync=False)
    assert read_all(spool) == [b"1", b"2", b"3", b"4"]
    assert spool.is_empty
    assert files(tmp_path) == []


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.one_of(st.integers(1, 4), st.just("read"), st.just("peek")), max_size=20))
def test_any_mix_of_writing_and_reading_gives_each_line_once_and_in_order(spool: Spool, steps: list[int | str]) -> None:
    written: list[bytes] = []
    read: list[bytes] = []
    for step in steps:
        if isinstance(step, int):
            lines = [b"%d" % number for number in range(len(written), len(written) + step)]
            spool.append(lines, sync=False)
            written += lines
        else:
            block = spool.peek(3)
            if step == "read" and block:
                read += block
                spool.commit()
    read += read_all(spool)
    assert read == written
    assert spool.is_empty
    assert spool.size_bytes == 0


def test_what_was_not_committed_is_seen_again(spool: Spool) -> None:
    spool.append([b"1", b"2"], sync=False)
    assert spool.peek(1) == spool.peek(1) == [b"1"]
    spool.commit()
    assert spool.peek(5) == [b"2"]


def test_size_is_what_is_still_to_be_read(spool: Spool) -> None:
    spool.append([b"one", b"two"], sync=False)
    assert spool.size_bytes == 8
    spool.peek(1)
    spool.commit()
    assert spool.size_bytes == 4
    assert not spool.is_empty


def test_files_of_the_living_are_left_alone_and_of_the_dead_taken_over(tmp_path: Path) -> None:
    first, second = Spool(tmp_path / "spool"), Spool(tmp_path / "spool")
    first.append([b"1"], sync=False)
    assert second.adopt() == 0
    first.close()  # releases the lock as the death of its process does, and the file stays
    assert second.adopt() == 1
    assert second.adopt() == 0
    second.append([b"2"], sync=False)
    assert read_all(second) == [b"1", b"2"]
    second.close()
    assert files(tmp_path) == []


def test_only_one_of_two_heirs_gets_a_file(tmp_path: Path) -> None:
    late, *heirs = (Spool(tmp_path / "spool") for _ in range(5))
    late.append([b"1"], sync=False)
    late.close()
    start = threading.Barrier(len(heirs))
    found: list[int] = []

    def inherit(heir: Spool) -> None:
        start.wait(5)
        found.append(heir.adopt())

    threads = [threading.Thread(target=inherit, args=(heir,)) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(found) == [0, 0, 0, 1]
    for heir in heirs:
        heir.close()


def test_close_keeps_files_with_rows_and_removes_empty_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append([b"1", b"2"], sync=False)
    spool.peek(1)
    spool.commit()
    spool.close()
    assert len(files(tmp_path)) == 1
    heir = Spool(tmp_path / "spool")
    heir.adopt()
    # How far the dead process had read is not known, and writing a row twice does no harm.
    assert read_all(heir) == [b"1", b"2"]
    heir.close()
    assert files(tmp_path) == []


def test_empty_file_of_the_dead_is_removed(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / f"0{SUFFIX}").touch()
    assert Spool(tmp_path / "spool").adopt() == 0
    assert files(tmp_path) == []


def test_line_cut_off_by_death_is_handed_out_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / f"0{SUFFIX}").write_bytes(b"whole\nhal")
    spool = Spool(tmp_path / "spool")
    spool.adopt()
    assert read_all(spool) == [b"whole", b"hal"]
    spool.close()


def test_lines_are_only_readable_by_their_owner(spool: Spool, tmp_path: Path) -> None:
    spool.append([b"1"], sync=False)
    assert [path.stat().st_mode & 0o777 for path in files(tmp_path)] == [0o600]


def test_full_disk_takes_all_lines_of_a_batch_or_none(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # the limit on file sizes holds for a whole process, so it gets one of its own
        code = 1
        try:
            spool = Spool(tmp_path / "spool")
            spool.append([b"first"], sync=True)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
            try:
                spool.append([b"x" * 20, b"y" * 20], sync=True)
            except OSError:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    heir = Spool(tmp_path / "spool")
    heir.adopt()
    assert read_all(heir) == [b"first"]
    heir.close()
