"""Keys are checked without telling anybody anything about the ones that exist."""

import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.access.keys import KeyEntry, KeyRing, Principal, load_or_make_secret, new_key, require_keys, tenant_salt
from serving.errors import ConfigInvalid, Unauthorized

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def ring(*entries: KeyEntry) -> KeyRing:
    return KeyRing(entries)


def test_valid_key_names_its_tenant() -> None:
    plain, entry = new_key("acme")
    assert ring(entry).authenticate(f"Bearer {plain}") == Principal(tenant="acme", key_id=entry.id)
    assert ring(entry).authenticate(f"bearer {plain}").tenant == "acme"


def test_admin_is_a_property_of_the_key() -> None:
    plain, entry = new_key("ops", admin=True)
    assert ring(entry).authenticate(f"Bearer {plain}").admin


def test_new_keys_hold_256_random_bits_and_are_kept_as_hashes() -> None:
    plain, entry = new_key("acme")
    assert plain.startswith("tw-")
    assert len(plain) == len("tw-") + 43  # 32 bytes in base64url
    assert entry.sha256 == hashlib.sha256(plain.encode()).hexdigest()
    assert plain not in entry.model_dump_json()
    assert len({new_key("acme")[0] for _ in range(100)}) == 100


KNOWN, ENTRY = new_key("acme")
OTHER, _ = new_key("acme")
REVOKED, _entry = new_key("acme")
REVOKED_ENTRY = _entry.model_copy(update={"revoked": True})
EXPIRED, EXPIRED_ENTRY = new_key("acme", expires_at=NOW)

WRONG = {
    "no header": None,
    "empty": "",
    "no scheme": KNOWN,
    "wrong scheme": f"Basic {KNOWN}",
    "no key": "Bearer ",
    "two spaces": f"Bearer  {KNOWN}",
    "trailing text": f"Bearer {KNOWN} x",
    "newline": f"Bearer {KNOWN}\n",
    "unknown": f"Bearer {OTHER}",
    "revoked": f"Bearer {REVOKED}",
    "expired": f"Bearer {EXPIRED}",
    "sql": "Bearer tw-' OR '1'='1' --",
    "nul": "Bearer tw-\x00",
    "not ascii": "Bearer tw-ключ",
    "surrogate": "Bearer tw-\ud800",
    "1 MB": "Bearer tw-" + "a" * 2**20,
    "the hash": f"Bearer {ENTRY.sha256}",
}


@pytest.mark.parametrize("header", WRONG.values(), ids=WRONG.keys())
def test_every_wrong_key_is_unauthorized(header: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """One status, no key material in the message or the log."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Unauthorized) as refused:
        ring(ENTRY, REVOKED_ENTRY, EXPIRED_ENTRY).authenticate(header, now=NOW)
    text = f"{refused.value!r} {refused.value.body()} {caplog.text}"
    assert refused.value.status == 401
    assert refused.value.__cause__ is None
    for secret in (KNOWN, OTHER, REVOKED, EXPIRED, ENTRY.sha256, "OR '1'"):
        assert secret not in text


def test_wrong_keys_are_told_apart_by_nothing() -> None:
    """Whether a key was ever known is not in the answer."""
    messages = set()
    for header in (WRONG["unknown"], WRONG["revoked"], WRONG["expired"], WRONG["sql"], WRONG["1 MB"]):
        with pytest.raises(Unauthorized) as refused:
            ring(ENTRY, REVOKED_ENTRY, EXPIRED_ENTRY).authenticate(header, now=NOW)
        messages.add(str(refused.value.body()))
    assert len(messages) == 1


def test_key_is_valid_until_its_expiry() -> None:
    key_ring = ring(EXPIRED_ENTRY)
    assert key_ring.authenticate(f"Bearer {EXPIRED}", now=NOW - timedelta(microseconds=1)).tenant == "acme"
    with pytest.raises(Unauthorized):
        key_ring.authenticate(f"Bearer {EXPIRED}", now=NOW)


@given(header=st.text())
def test_no_text_is_a_key_or_an_accident(header: str) -> None:
    with pytest.raises(Unauthorized):
        ring(ENTRY).authenticate(header)


def test_without_a_keys_file_everybody_is_local() -> None:
    principal = KeyRing.load(None).authenticate(None)
    assert principal == Principal(tenant="local", admin=True)


def test_empty_keys_file_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text("keys: []\n")
    with pytest.raises(Unauthorized):
        KeyRing.load(tmp_path / "keys.yaml").authenticate(None)


def test_keys_file_round_trip(tmp_path: Path) -> None:
    plain, entry = new_key("acme", expires_at=NOW + timedelta(days=1))
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump({"keys": [entry.model_dump(mode="json")]}))
    assert KeyRing.load(path).authenticate(f"Bearer {plain}", now=NOW).key_id == entry.id


@pytest.mark.parametrize(
    "text",
    [
        "keys: [",
        "keys: nobody",
        "keys: [{id: a, tenant: t, sha256: short}]",
        "keys: [{id: a, tenant: t, sha256: '" + "0" * 64 + "', expires_at: 2026-01-01T00:00:00}]",
        "keys: [{id: a, tenant: t, sha256: '" + "0" * 64 + "', admn: true}]",
        "keys: [{id: a, tenant: t, sha256: '" + "0" * 64 + "'}, {id: b, tenant: u, sha256: '" + "0" * 64 + "'}]",
        "keys: [{id: a, tenant: t, sha256: '" + "0" * 64 + "'}, {id: a, tenant: u, sha256: '" + "1" * 64 + "'}]",
    ],
    ids=["not yaml", "not a list", "bad hash", "naive expiry", "misspelled", "hash twice", "id twice"],
)
def test_bad_keys_file_stops_the_start_without_showing_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigInvalid) as refused:
        KeyRing.load(tmp_path / "keys.yaml")
    assert "0" * 64 not in str(refused.value)
    assert "short" not in str(refused.value)


def test_missing_keys_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"absent\.yaml"):
        KeyRing.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    require_keys(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org"])
def test_other_hosts_need_keys(host: str) -> None:
    with pytest.raises(ConfigInvalid, match="keys_file"):
        require_keys(host, None)
    require_keys(host, Path("keys.yaml"))


@pytest.mark.parametrize("tenant", ["a@b/c\\d", "nul\x00", "t" * 10_240, "", "\ud800", "テナント"])
def test_any_tenant_id_gives_a_valid_salt(tenant: str) -> None:
    """vLLM takes at most 128 characters, none of @ / \\ and NUL."""
    salt = tenant_salt(b"s" * 32, tenant)
    assert len(salt) == 64
    assert set(salt) <= set("0123456789abcdef")


@given(a=st.text(), b=st.text())
def test_salts_tell_tenants_and_secrets_apart(a: str, b: str) -> None:
    assert (tenant_salt(b"s" * 32, a) == tenant_salt(b"s" * 32, b)) == (a == b)
    assert tenant_salt(b"s" * 32, a) != tenant_salt(b"t" * 32, a)


def test_secret_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "state" / "secret"
    secret = load_or_make_secret(path)
    assert len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_make_secret(path) == secret
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_start_together_share_one_secret(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def read(_: int) -> bytes:
        start.wait(timeout=30)
        return load_or_make_secret(tmp_path / "secret")

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(read, range(8)))) == 1


@pytest.mark.parametrize(("mode", "content"), [(0o644, b"s" * 32), (0o600, b""), (0o600, b"s" * 31)])
def test_unsafe_secret_is_refused(tmp_path: Path, mode: int, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigInvalid):
        load_or_make_secret(path)
