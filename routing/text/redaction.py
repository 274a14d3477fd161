"""Takes secrets and personal data out of a text before it is kept: each match is replaced by its pattern's name.

Patterns cover what can be checked (checksums, prefixes of issuers). Names and addresses in prose cannot be checked. So
a redacted text still belongs to its tenant, is kept only with the tenant's consent, and expires.
"""

import re
from collections.abc import Callable
from typing import Final

_SEPARATORS: Final = str.maketrans("", "", " -")


def _luhn(digits: str) -> bool:
    """The checksum of payment cards (ISO/IEC 7812-1, annex B)."""
    doubled = [int(d) * 2 if i % 2 else int(d) for i, d in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _iban(text: str) -> bool:
    """The checksum of bank accounts (ISO 13616): the number after moving its first four characters to the end."""
    compact = text.translate(_SEPARATORS).upper()
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _always(text: str) -> bool:
    return True


def _is_card(text: str) -> bool:
    return _luhn(text.translate(_SEPARATORS))


# (name, pattern, what a match must also pass). Order matters: the longer and surer ones first.
_RULES: Final[tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...]] = (
    (
        "PRIVATE_KEY",
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,20000}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)"
        ),
        _always,
    ),
    ("JWT", re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}"), _always),
    (
        "API_KEY",  # our own, OpenAI and Anthropic, AWS, GitHub, GitLab, Slack, Google, Hugging Face, Stripe
        re.compile(
            r"\b(?:tw-[A-Za-z0-9_-]{43}|sk-[A-Za-z0-9_-]{8,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{20,}"
            r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}|xox[abeprs]-[A-Za-z0-9-]{10,}"
            r"|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{10,})"
        ),
        _always,
    ),
    (
        "SECRET",  # a value that its own label calls one
        re.compile(
            r"(?i)(?<=[\s\"'{,;&?])(?:password|passwd|pwd|secret|api[_-]?key|access[_-]?token|auth[_-]?token"
            r"|client[_-]?secret)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"',;&]{6,}"
            r"|\bbearer\s+[A-Za-z0-9._~+/-]{16,}=*|(?<=://)[^\s/:@]{1,100}:[^\s/@]{1,200}(?=@)"
        ),
        _always,
    ),
    ("EMAIL", re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}\b"), _always),
    ("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"), _iban),
    ("CARD", re.compile(r"(?<![\d.])\d(?:[ -]?\d){12,18}(?![\d.])"), _is_card),
    ("SSN", re.compile(r"(?<![\d-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"), _always),
    (
        "PHONE",  # international, or the grouped North American form. Bare digit runs are numbers, not phones
        re.compile(r"(?<![\w+])\+\d{1,3}(?:[ .()-]{0,2}\d){7,12}(?!\d)|(?<!\d)\(\d{3}\) ?\d{3}-\d{4}(?!\d)"),
        _always,
    ),
    (
        "IP",
        re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])"),
        _always,
    ),
)


def redact(text: str) -> str:
    """The text with every secret and identifier replaced by its kind in brackets: [EMAIL], [API_KEY], …

    Redacting twice changes nothing further. Linear in the text: every pattern is bounded.
    """
    text = f" {text}"  # so that a label at the very start has the border its pattern asks for
    for name, pattern, holds in _RULES:
        text = pattern.sub(lambda m, n=name, ok=holds: f"[{n}]" if ok(m[0]) else m[0], text)  # type: ignore[misc]  # bound now
    return text[1:]


def findings(text: str) -> tuple[str, ...]:
    """The kinds of secrets in a text, each once. Empty for a redacted one. Every export is checked with it."""
    padded = f" {text}"
    return tuple(name for name, pattern, holds in _RULES if any(holds(match[0]) for match in pattern.finditer(padded)))
