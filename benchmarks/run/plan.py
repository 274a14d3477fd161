"""What a run measures with."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures with. Every section takes from it what concerns it.

    quick: minutes instead of a quarter of an hour, with fewer rounds and a small model of random weights.
    url: a running stack to measure. None: sections start what they need and stop it again.
    direct: URL and model name of the running stack's engine called directly. peers: folder with the peers' commands.
    scratch: an empty folder for this run's files. profile: the one that a stack is started on.
    """

    scratch: Path
    quick: bool = False
    rounds: int = 3
    seed: int = 0
    url: str | None = None
    direct: str | None = None
    direct_model: str | None = None
    peers: Path | None = None
    profile: Path = Path("deploy/profiles/cpu.yaml")
    gpu: bool = False
