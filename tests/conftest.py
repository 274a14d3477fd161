"""What every test shares: generated examples have no time limit, because shared machines pause; speed is no claim."""

import gc
import re
from pathlib import Path

import pytest
from hypothesis import settings

SLOW_AS_A_WHOLE = re.compile(r"^pytestmark = (pytest\.mark\.slow$|\[pytest\.mark\.slow,)", re.MULTILINE)

settings.register_profile("tierwise", deadline=None)
settings.load_profile("tierwise")


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of garbage collection: it would pause tests that wait half a second."""
    gc.collect()
    gc.freeze()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """When slow tests are not asked for, do not import a file of slow tests: it may load vLLM, torch or sklearn."""
    if collection_path.suffix == ".py" and "not slow" in config.option.markexpr:
        return bool(SLOW_AS_A_WHOLE.search(collection_path.read_text("utf-8"))) or None
    return None
