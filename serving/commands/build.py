"""`build`: write a profile as `serve deploy` takes it, the cluster's whole configuration without secrets.

The profile's tree travels as the arguments of serving.app:build, so a changed value is a rolling update of what it
concerns. ${NAME} stays as it is and is resolved on the cluster.
"""

import argparse
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import yaml

from serving.access.keys import require_keys
from serving.app import APPLICATION
from serving.artefacts.weights import ROOT
from serving.config import SECRET, parse_config, read_tree
from serving.errors import ConfigInvalid

IMPORT_PATH = "serving.app:build"
# What a cluster needs of the repository. Ray unpacks a zip with one top folder.
PACKAGED = ("routing/**/*", "serving/**/*", "models/weights/catalog.yaml")
TOP_FOLDER = "tierwise"
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same files give the same bytes, of which the name is a hash
ENVIRONMENT = {
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "DO_NOT_TRACK": "1",
}


def serve_config(profile: Path, env: dict[str, str], working_dir: str | None = None) -> dict[str, Any]:
    """The ServeDeploySchema document of a profile.

    working_dir: URI of a zip made by `package`. None when the code is on every node's PYTHONPATH already (an image).
    Raises ConfigInvalid, also for what would not start on a cluster.
    """
    tree = read_tree(profile, env)
    # Secrets may be set on the cluster alone. Any text will do to check the rest.
    config = parse_config(
        tree, dict.fromkeys(SECRET.findall(yaml.safe_dump(tree)), "set-on-the-cluster") | env, str(profile)
    )
    if config.standin is not None:
        raise ConfigInvalid(f"{profile}: a stand-in frontier runs on one machine; a cluster needs a real frontier")
    require_keys(config.gateway.host, config.gateway.keys_file)
    runtime_env: dict[str, Any] = {"env_vars": dict(ENVIRONMENT)}
    if working_dir is not None:
        runtime_env["working_dir"] = working_dir
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.gateway.host, "port": config.gateway.port},
        "logging_config": {"encoding": "JSON", "log_level": "INFO", "enable_access_log": False},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "runtime_env": runtime_env,
                "args": {"profile": tree},
            }
        ],
    }


def package(folder: Path, root: Path = ROOT) -> Path:
    """Zip the code for a cluster into `folder`. The file's name holds its hash, so new code gets a new URI."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(
            {path for pattern in PACKAGED for path in root.glob(pattern) if path.is_file() and path.suffix != ".pyc"}
        ):
            entry = zipfile.ZipInfo(f"{TOP_FOLDER}/{path.relative_to(root).as_posix()}", ZIP_EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    data = buffer.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"tierwise-{hashlib.sha256(data).hexdigest()[:12]}.zip"
    out.write_bytes(data)
    return out


def document(config: dict[str, Any], profile: Path) -> str:
    """The YAML to hand to `serve deploy`."""
    head = f"# Made by `python -m serving build {profile.name}`; change the profile, not this file.\n"
    return head + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: the profile, and where document and code go."""
    parser.add_argument("config", type=Path, help="the profile to deploy")
    parser.add_argument("--out", type=Path, help="file to write (standard output)")
    parser.add_argument("--package", type=Path, metavar="DIR", help="zip the code into this folder, named by its hash")
    parser.add_argument(
        "--package-uri",
        metavar="PREFIX",
        help="where the nodes find the zip: s3://bucket/path, https://…, gs://… (file://DIR, for one machine)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the document, and with --package also the code that it refers to."""
    try:
        archive = package(args.package) if args.package else None
        prefix = args.package_uri or (f"file://{archive.parent.resolve()}" if archive else "")
        uri = f"{prefix.rstrip('/')}/{archive.name}" if archive else None
        text = document(serve_config(args.config, dict(os.environ), uri), args.config)
        if args.out:
            args.out.write_text(text, encoding="utf-8")
        else:
            print(text, end="")
    except OSError as error:
        raise ConfigInvalid(f"cannot write {error.filename}: {error.strerror}") from error
    if archive:
        print(f"code: {archive} -> {uri}", file=sys.stderr)
    return 0
