"""`grafana`: print the Grafana dashboard of every metric."""

import argparse

from serving.telemetry.grafana import dashboard_json


def add_arguments(_: argparse.ArgumentParser) -> None:
    """No options."""


def run(_: argparse.Namespace) -> int:
    """Print it as JSON. deploy/grafana/tierwise.json is a copy."""
    print(dashboard_json(), end="")
    return 0
