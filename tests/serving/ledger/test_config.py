"""A ledger that could not keep its rows, or would spill a password into the log, stops the start."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.errors import ConfigInvalid
from serving.ledger.config import LedgerConfig
from serving.ledger.store import open_engine


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("mysql://host/db", "mysql"),
        ("postgresql://host/db", "postgresql"),
        ("not a url", "not a database URL"),
        ("postgresql+psycopg://me:secret@host/db", "PGPASSWORD"),
        ("postgresql+psycopg://me@host/db", "spool_dir"),
    ],
)
def test_url_that_cannot_serve_is_refused_and_told_why(url: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says) as refused:
        LedgerConfig(url=url)
    assert "secret" not in refused.value.errors()[0]["msg"]


def test_misspelled_key_is_named() -> None:
    with pytest.raises(ValidationError, match="que_size"):
        LedgerConfig.model_validate({"que_size": 1})


def test_spool_lies_beside_the_sqlite_file_unless_it_has_a_place_of_its_own() -> None:
    assert LedgerConfig(url="sqlite:///var/l.sqlite3").spool_path == Path("var/l.sqlite3-spool")
    assert LedgerConfig(url="sqlite:////abs/l.sqlite3", spool_dir="/other").spool_path == Path("/other")


@pytest.mark.skipif(find_spec("psycopg") is not None, reason="the driver is installed")
def test_postgres_without_its_driver_says_what_to_install() -> None:
    config = LedgerConfig(url="postgresql+psycopg://me@127.0.0.1/db", spool_dir="spool")
    with pytest.raises(ConfigInvalid, match="pip install 'psycopg"):
        open_engine(config)
