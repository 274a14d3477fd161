"""What is taken out of a text before it is kept, and what is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.redaction import findings, redact

SECRETS = {
    "mail bob.smith+x@example.co.uk today": "EMAIL",
    "key sk-proj-abcdefgh12345678": "API_KEY",
    "AKIAIOSFODNN7EXAMPLE is theirs": "API_KEY",
    "ghp_0123456789abcdefghijABCDEFGHIJ012345": "API_KEY",
    f"ours: tw-{'a' * 43}": "API_KEY",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N": "JWT",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----": "PRIVATE_KEY",
    "password: hunter22": "SECRET",
    '{"api_key": "0a1b2c3d4e"}': "SECRET",
    "Authorization: Bearer 0123456789abcdef0123": "SECRET",
    "postgres://user:pw123456@host/db": "SECRET",
    "card 4111 1111 1111 1111 please": "CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "ssn 078-05-1120": "SSN",
    "call +1 415 555 2671": "PHONE",
    "call (415) 555-2671": "PHONE",
    "from 203.0.113.7": "IP",
}
HARMLESS = [
    "The answer is 3.14159265358979 and 1234567890123456.",
    "Version 1.2.3 of 2026-11-22, chapter 12.4",
    "The password policy is strict; the secret of bread is time.",
    "1111-2222 apples at $4,111.11",
    "a@b",
    "def f(x: int) -> int: return x ** 2",
]


@pytest.mark.parametrize(("text", "kind"), SECRETS.items(), ids=SECRETS.values())
def test_secret_is_replaced_by_its_kind(text: str, kind: str) -> None:
    """Secrets and PII never in what is kept."""
    assert findings(text) == (kind,)
    assert f"[{kind}]" in redact(text)
    assert findings(redact(text)) == ()


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text
    assert findings(text) == ()


@given(st.lists(st.sampled_from([*SECRETS, *HARMLESS, "\n", "x", "  "]), max_size=8).map(" ".join))
def test_nothing_is_found_after_redaction_and_doing_it_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    assert findings(once) == ()
    assert redact(once) == once


@given(st.text(max_size=300))
def test_any_text_can_be_redacted(text: str) -> None:
    assert findings(redact(text)) == ()
