"""What every test shares: generated examples have no time limit, because shared machines pause; speed is no claim."""

from hypothesis import settings

settings.register_profile("tierwise", deadline=None)
settings.load_profile("tierwise")
