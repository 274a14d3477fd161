"""Says who is calling. API keys are kept as hashes, and a salt per tenant keeps prefix caches apart.

A key is 256 random bits, so its SHA-256 cannot be searched and needs no slow hash.
Finding a key by that digest takes the same work for every wrong key.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import AwareDatetime, Field, ValidationError

from routing.records import Record
from serving.errors import ConfigInvalid, Unauthorized

LOCAL_TENANT = "local"
KEY_PREFIX = "tw-"
KEY_BYTES = 32
MAX_HEADER_CHARS = 512  # longest honest header: "Bearer tw-" and 43 characters
_KEY = re.compile(r"tw-[A-Za-z0-9_-]{43}")
_WRONG_KEY = "Incorrect API key provided; send a valid one as 'Authorization: Bearer tw-...'."


class Principal(Record):
    """Who a request belongs to."""

    tenant: str
    key_id: str | None = None
    admin: bool = False


class KeyEntry(Record):
    """One key as it is kept: its hash, its tenant, its expiry."""

    id: str = Field(min_length=1, max_length=64)
    tenant: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of the whole key, hex")
    admin: bool = False
    expires_at: AwareDatetime | None = None
    revoked: bool = False


class KeysFile(Record):
    """The YAML file of keys."""

    keys: tuple[KeyEntry, ...] = ()


class KeyRing:
    """The keys that are known now. Without a keys file every caller is the local tenant, see require_keys."""

    def __init__(self, entries: tuple[KeyEntry, ...] | None) -> None:
        """entries: None when the gateway runs without keys (loopback only, see require_keys)."""
        self._by_digest = None if entries is None else {entry.sha256: entry for entry in entries}

    @classmethod
    def load(cls, path: Path | None) -> "KeyRing":
        """Read the keys file. Raises ConfigInvalid naming what is wrong, never a value of the file."""
        if path is None:
            return cls(None)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigInvalid(f"cannot read the keys file {path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError):
            raise ConfigInvalid(f"the keys file {path} is not YAML") from None  # its words quote the file
        try:
            entries = KeysFile.model_validate(data or {}).keys
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ConfigInvalid(f"the keys file {path} is not valid: {problems}") from None
        for field in ("id", "sha256"):
            values = [getattr(entry, field) for entry in entries]
            if len(set(values)) != len(values):
                raise ConfigInvalid(f"the keys file {path} holds one {field} twice")
        return cls(entries)

    def authenticate(self, authorization_header: str | None, now: datetime | None = None) -> Principal:
        """Who sent this header. Raises Unauthorized, with the same words and work for every kind of wrong key.

        now: aware UTC time that the expiry is compared with. None is the wall clock.
        """
        if self._by_digest is None:
            return Principal(tenant=LOCAL_TENANT, admin=True)
        if authorization_header is None:
            raise Unauthorized("You didn't provide an API key; send it as 'Authorization: Bearer tw-...'.")
        scheme, _, key = authorization_header[:MAX_HEADER_CHARS].partition(" ")
        if scheme.lower() != "bearer" or not _KEY.fullmatch(key):
            raise Unauthorized(_WRONG_KEY)
        # The time of this lookup says at most something about a hash, and nobody can invert or choose a hash.
        entry = self._by_digest.get(hashlib.sha256(key.encode()).hexdigest())
        expired = entry is not None and entry.expires_at is not None and entry.expires_at <= (now or datetime.now(UTC))
        if entry is None or entry.revoked or expired:
            raise Unauthorized(_WRONG_KEY)
        return Principal(tenant=entry.tenant, key_id=entry.id, admin=entry.admin)


def new_key(tenant: str, *, admin: bool = False, expires_at: datetime | None = None) -> tuple[str, KeyEntry]:
    """A fresh key: (the plain text to hand over once, the entry to keep)."""
    plain = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    entry = KeyEntry(
        id=secrets.token_hex(4),
        tenant=tenant,
        sha256=hashlib.sha256(plain.encode()).hexdigest(),
        admin=admin,
        expires_at=expires_at,
    )
    return plain, entry


def require_keys(host: str, keys_file: Path | None) -> None:
    """Raises ConfigInvalid when others than this machine could reach a gateway that asks for no key."""
    if keys_file is None and not _is_loopback(host):
        raise ConfigInvalid(
            f"gateway.host is {host!r}, which other machines can reach, but gateway.keys_file is not set; "
            "bind 127.0.0.1 or make keys first"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def tenant_salt(secret: bytes, tenant: str) -> str:
    """The tenant's prefix-cache salt: 64 hex digits whatever the tenant is called, not guessable without the secret."""
    return hmac.new(secret, tenant.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def load_or_make_secret(path: Path) -> bytes:
    """The 32 random bytes behind the salts, made on first use and readable by the owner alone (0600).

    Raises ConfigInvalid when the file is unreadable, of the wrong size, or open to others.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Write to a temporary file, then link it. Several processes may start at once, and none may read half a secret.
        descriptor, draft = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(draft)
    return _read_secret(path)


def _read_secret(path: Path) -> bytes:
    try:
        status, secret = path.stat(), path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"cannot read the secret {path}: {error.strerror}") from error
    mode = status.st_mode & 0o777
    # A secret that Kubernetes mounts belongs to another user. Our group may read it, or we could not read it at all.
    if mode & (0o077 if status.st_uid == os.geteuid() else 0o037):
        raise ConfigInvalid(f"the secret {path} has mode {mode:03o}; others can read it, so run: chmod 600 {path}")
    if len(secret) != KEY_BYTES:
        raise ConfigInvalid(
            f"the secret {path} has {len(secret)} bytes instead of {KEY_BYTES}; remove it to make a new one"
        )
    return secret
