"""The command around a turn; the turn itself is in tests/journey/test_flywheel_turn.py."""

import argparse
from pathlib import Path

import pytest

from benchmarks.flywheel.command import add_arguments, run


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--adapter", "adapter", *words])


def test_folder_with_something_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of an earlier turn would be counted as this one's."""
    (tmp_path / "ledger.sqlite3").touch()
    assert run(parsed("--files", str(tmp_path))) == 2
    assert "is not empty" in capsys.readouterr().err
