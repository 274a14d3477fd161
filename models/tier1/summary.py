"""Where a training says what it was."""

from typing import Final

SUMMARY: Final = "training.json"
