"""Show the catalog: each model with its licence, its origin, and whether it is ready in the cache."""

import argparse
from pathlib import Path

from models.weights.catalog import load_catalog
from models.weights.folder import cache_dir, model_dir, ready


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m models list`."""
    parser.add_argument("--cache", type=Path, help="cache folder (default: TIERWISE_CACHE, else .cache/tierwise)")


def run(args: argparse.Namespace) -> str:
    """One line a model."""
    cache = cache_dir(args.cache)
    rows = [("model", "profile", "licence", "state", "origin")]
    for model in load_catalog().models:
        manifest = ready(model, model_dir(cache, model.name))
        state = "absent" if manifest is None else f"ready, {sum(f.bytes for f in manifest.files.values()) / 1e9:.1f} GB"
        rows.append((model.name, model.profile, model.licence, state, model.origin))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
