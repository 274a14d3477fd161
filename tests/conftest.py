"""What every test shares: generated examples have no time limit, because shared machines pause; speed is no claim."""

import gc

from hypothesis import settings

settings.register_profile("tierwise", deadline=None)
settings.load_profile("tierwise")


def pytest_collection_finish() -> None:
    """Keep what was imported and collected out of garbage collection: it would pause tests that wait half a second."""
    gc.collect()
    gc.freeze()
