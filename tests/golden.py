"""Golden files: what a test expects, stored beside it; `make golden` rewrites them and the diff is reviewed."""

import os
from pathlib import Path


def assert_golden(path: Path, actual: str) -> None:
    """The text equals the stored file; with TIERWISE_GOLDEN=1 the file is written instead."""
    if os.environ.get("TIERWISE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == actual
