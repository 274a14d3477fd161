"""A profile is read whole or refused whole: every wrong key named, no secret anywhere but in its field."""

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serving.__main__ import main
from serving.config import SECRET as SECRET_NAME
from serving.config import StackConfig, load_config, overlay
from serving.errors import ConfigInvalid

ROOT = Path(__file__).resolve().parents[2]
PROFILES = sorted((ROOT / "deploy" / "profiles").glob("*.yaml"))
SECRET = "sk-9f8e7d6c5b4a"
ENV = {"UPSTREAM_KEY": SECRET}


def profile(**sections: Any) -> dict[str, Any]:
    """The smallest tree, with sections laid over."""
    provider = {
        "name": "up",
        "kind": "openai",
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "${UPSTREAM_KEY}",
        "model": "big",
        "max_context_tokens": 16384,
    }
    tree: dict[str, Any] = {
        "gateway": {"port": 8000},
        "tier1": {"model": "small"},
        "frontier": {"providers": [provider]},
        "ledger": {"url": "sqlite:///ledger.sqlite3"},
    }
    return {**tree, **sections}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile.yaml"


def load(path: Path, tree: Any, env: dict[str, str] | None = None) -> StackConfig:
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return load_config(path, ENV if env is None else env)


def refusal(path: Path, tree: Any, env: dict[str, str] | None = None) -> str:
    """What the operator reads, with the traceback that a log might hold."""
    with pytest.raises(ConfigInvalid) as refused:
        load(path, tree, env)
    return refused.value.message + "".join(traceback.format_exception(refused.value))


def test_stand_in_on_a_cpu_is_never_sent_a_seed() -> None:
    """vLLM 0.32 dies of a seeded prompt that takes more than one step there, and clients choose both."""
    (standin,) = load_config(ROOT / "deploy" / "profiles" / "cpu.yaml", {}).frontier.providers
    assert "seed" in standin.drop_params


@pytest.mark.parametrize("profile_path", PROFILES, ids=lambda p: p.stem)
def test_every_profile_in_the_repository_is_valid(profile_path: Path) -> None:
    named = set(SECRET_NAME.findall(profile_path.read_text("utf-8")))
    assert named == set() or profile_path.stem not in ("cpu", "noop")
    assert load_config(profile_path, dict.fromkeys(named, "sqlite:///ledger.sqlite3")).hash


def test_there_are_profiles() -> None:
    assert {"cpu", "noop", "gpu-24g", "gpu-80g", "gpu-141g", "cluster"} <= {p.stem for p in PROFILES}


# STACK_* variables


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("STACK_GATEWAY__PORT", "9000", ("gateway", "port", 9000)),
        ("STACK_RESPONSE__KEEPALIVE_S", "0.5", ("response", "keepalive_s", 0.5)),
        ("STACK_DRAFT__SPILL_WHEN_FULL", "true", ("draft", "spill_when_full", True)),
        ("STACK_GATEWAY__KEYS_FILE", "null", ("gateway", "keys_file", None)),
        ("STACK_POLICY__TENANT_PINS", "{blue: tier1}", ("policy", "tenant_pins", {"blue": "tier1"})),
        ("STACK_POLICY__CATEGORIES__CODE__THRESHOLD", "0.75", ("policy", "categories", None)),
    ],
)
def test_variable_lies_over_the_profile(path: Path, name: str, value: str, seen: tuple[str, str, Any]) -> None:
    section, field, expected = seen
    config = load(path, profile(), {**ENV, name: value})
    if field == "categories":
        assert config.policy.categories["code"].threshold == 0.75
    else:
        assert getattr(getattr(config, section), field) == expected


def test_variable_may_hold_a_secret_by_name(path: Path) -> None:
    assert (
        load(path, profile(), {**ENV, "STACK_GATEWAY__HOST": "${HOST_NAME}", "HOST_NAME": "::1"}).gateway.host == "::1"
    )


def test_profile_itself_is_not_changed_by_the_overlay() -> None:
    tree = profile()
    overlay(tree, {"STACK_GATEWAY__PORT": "1", "STACK_ROUTER__MODEL": "x"})
    assert tree == profile()


def test_variables_of_others_change_nothing(path: Path) -> None:
    assert load(path, profile(), {**ENV, "MY_STACK_GATEWAY__PORT": "1", "GATEWAY__PORT": "1"}).gateway.port == 8000


def test_misspelled_variable_is_refused_by_the_name_of_its_key(path: Path) -> None:
    assert "gateway.prot" in refusal(path, profile(), {**ENV, "STACK_GATEWAY__PROT": "9000"})


def test_variable_inside_a_value_is_refused_by_its_own_name(path: Path) -> None:
    told = refusal(path, profile(), {**ENV, "STACK_GATEWAY__PORT__HIGH": "1"})
    assert "STACK_GATEWAY__PORT__HIGH" in told
    assert "'port' is a value" in told


def test_variable_that_is_not_yaml_is_refused_by_its_own_name_without_its_value(path: Path) -> None:
    told = refusal(path, profile(), {**ENV, "STACK_GATEWAY__HOST": f"[{SECRET}"})
    assert "STACK_GATEWAY__HOST" in told
    assert SECRET not in told


# Secrets


def test_secret_comes_from_the_environment(path: Path) -> None:
    (provider,) = load(path, profile()).frontier.providers
    assert provider.api_key.get_secret_value() == SECRET


def test_missing_secret_is_named_with_the_key_that_needs_it(path: Path) -> None:
    told = refusal(path, profile(), {})
    assert "frontier.providers[0].api_key" in told
    assert "UPSTREAM_KEY is not set" in told


def test_secret_is_not_shown_and_not_hashed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(path, profile())
    other = load(path, profile(), {"UPSTREAM_KEY": "sk-another"})
    assert config.hash == other.hash
    assert SECRET not in repr(config) + str(config) + config.model_dump_json()


def test_secret_is_not_printed_by_show(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    path.write_text(yaml.safe_dump(profile()), encoding="utf-8")
    assert main(["validate", "--show", str(path)]) == 0
    printed = capsys.readouterr()
    assert "api_key: '**********'" in printed.out
    assert SECRET not in printed.out + printed.err


SPOILED: list[tuple[str, Any]] = [
    ("api_key_typo", {"api_kee": "${UPSTREAM_KEY}"}),
    ("unknown_key", {"token": "Bearer ${UPSTREAM_KEY}"}),
    ("wrong_field", {"base_url": "${UPSTREAM_KEY}"}),
    ("wrong_kind", {"kind": "${UPSTREAM_KEY}"}),
    ("not_a_number", {"max_context_tokens": "${UPSTREAM_KEY}"}),
    ("inside_a_list", {"drop_params": {"a": "${UPSTREAM_KEY}"}}),
]


@pytest.mark.parametrize("change", [c[1] for c in SPOILED], ids=[c[0] for c in SPOILED])
def test_secret_in_a_wrong_place_is_not_quoted(path: Path, change: dict[str, Any]) -> None:
    tree = profile()
    tree["frontier"]["providers"][0] |= change
    told = refusal(path, tree)
    assert next(iter(change)) in told
    assert SECRET not in told


def test_secret_in_a_union_field_is_not_quoted(path: Path) -> None:
    told = refusal(path, profile(tier1={"model": "small", "engine_args": {"x": ["${UPSTREAM_KEY}"], "y": {"z": 1}}}))
    assert "tier1.engine_args.x" in told
    assert SECRET not in told


# What is refused


def test_unknown_keys_are_refused_by_name_and_all_at_once(path: Path) -> None:
    """Rejected as a whole."""
    tree = profile(gateway={"prot": 1}, policy={"treshold": 0.5, "categories": {"code": {"hld": "off"}}}, exrta={})
    told = refusal(path, tree)
    for name in ("gateway.prot", "policy.treshold", "policy.categories.code.hld", "exrta"):
        assert f"  {name}: Extra inputs are not permitted" in told


@pytest.mark.parametrize(
    ("section", "values", "named"),
    [
        ("policy", {"default_threshold": 1.01}, "policy.default_threshold"),
        ("policy", {"default_threshold": -0.01}, "policy.default_threshold"),
        ("policy", {"default_hold": "prefix"}, "policy.default_hold"),
        ("gate", {"judge_threshold": 2}, "gate.judge_threshold"),
        ("gateway", {"port": 65536}, "gateway.port"),
        ("tier1", {"model": "small", "engine": "tgi"}, "tier1.engine"),
        ("cost", {"baseline": "up/none"}, "cost"),
        ("ledger", {"url": "sqlite://"}, "ledger"),
        ("frontier", {"providers": []}, "frontier.providers"),
    ],
)
def test_value_out_of_range_is_refused_by_the_name_of_its_key(
    path: Path, section: str, values: dict[str, Any], named: str
) -> None:
    assert f"  {named}: " in refusal(path, profile(**{section: values}))


def test_value_seen_is_told(path: Path) -> None:
    assert "(seen: 1.01)" in refusal(path, profile(policy={"default_threshold": 1.01}))


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_threshold_may_be_any_probability(path: Path, value: float) -> None:
    assert load(path, profile(policy={"default_threshold": value})).policy.default_threshold == value


def test_judge_threshold_needs_a_router_to_ask(path: Path) -> None:
    assert "no router to ask" in refusal(path, profile(gate={"judge_threshold": 0.5}))
    router = {"model": "small"}
    assert load(path, profile(gate={"judge_threshold": 0.5}, router=router)).gate.judge_threshold == 0.5


def test_missing_section_is_named(path: Path) -> None:
    tree = profile()
    del tree["ledger"], tree["tier1"]
    told = refusal(path, tree)
    assert "ledger: Field required" in told
    assert "tier1: Field required" in told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "just words",
        "a: [",
        "\t- x",
        "a: &a [*a]",
        "2026-11-21: x",
        "? [a]\n: b",
        "a: !!python/object:os.x {}",
    ],
)
def test_file_that_is_no_tree_of_sections_is_refused(path: Path, text: str) -> None:
    assert str(path) in refusal(path, text) or "profile" in refusal(path, text)


def test_file_that_is_no_text_is_refused(path: Path) -> None:
    path.write_bytes(b"gateway: \xff\xfe")
    with pytest.raises(ConfigInvalid, match="not YAML"):
        load_config(path, {})


def test_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"cannot read the configuration .*profile\.yaml: No such file"):
        load_config(path, {})


# The hash


@pytest.mark.slow
def test_same_tree_has_the_same_hash_in_another_process(path: Path) -> None:
    config = load(path, profile(policy={"tenant_pins": {"b": "tier1", "a": "frontier"}}))
    code = "import sys; from pathlib import Path; from serving.config import load_config; "
    code += "print(load_config(Path(sys.argv[1])).hash)"
    env = {**ENV, "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert other.stdout.strip() == config.hash


def test_order_of_keys_and_stated_defaults_do_not_change_the_hash(path: Path) -> None:
    tree = profile(response={"keepalive_s": 5.0})
    assert load(path, dict(reversed(tree.items()))).hash == load(path, profile()).hash


LEAVES: list[tuple[str, dict[str, Any]]] = [
    ("gateway", {"port": 8001}),
    ("response", {"hold_headers_s": 1.0}),
    ("router", {"model": "small"}),
    ("standin", {"model": "small"}),
    ("policy", {"default_threshold": 0.6}),
    ("gate", {"min_mean_logprob": -1.0}),
    ("draft", {"spill_when_full": True}),
    ("budget", {"at_soft": "allow"}),
    ("cascade", {"degrade_when_frontier_down": True}),
    ("cost", {"engine_price_source": "rent"}),
    ("ledger", {"url": "sqlite:///other.sqlite3"}),
    ("idempotency", {"ttl_s": 1.0}),
    ("learning", {"keep_texts_rate": 0.5}),
    ("promotion", {"registry": "registry"}),
    ("traces", {"sample_rate": 0.5}),
    ("hardware", {"name": "a machine"}),
    ("tier1", {"model": "other"}),
]


@pytest.mark.parametrize(("section", "values"), LEAVES, ids=[leaf[0] for leaf in LEAVES])
def test_any_other_change_changes_the_hash(path: Path, section: str, values: dict[str, Any]) -> None:
    assert load(path, profile(**{section: values})).hash != load(path, profile()).hash


def test_every_section_is_in_the_table_above() -> None:
    assert {leaf[0] for leaf in LEAVES} | {"frontier"} == set(StackConfig.model_fields)


@given(port=st.integers(0, 65535), threshold=st.floats(0, 1))
def test_different_values_have_different_hashes(port: int, threshold: float) -> None:
    base = StackConfig.model_validate(profile())
    tree = profile(gateway={"port": port}, policy={"default_threshold": threshold})
    config = StackConfig.model_validate(tree)
    assert (config.hash == base.hash) == (config == base)


# The command


def test_validate_says_two_and_the_key(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The exit status is not 0 and every wrong key is named on standard error."""
    monkeypatch.setenv("UPSTREAM_KEY", SECRET)
    path.write_text(yaml.safe_dump(profile(policy={"default_threshold": 1.5, "treshold": 1})), encoding="utf-8")
    assert main(["validate", str(path)]) == 2
    told = capsys.readouterr().err
    assert "policy.default_threshold" in told
    assert "policy.treshold" in told
    assert "Traceback" not in told


def test_validate_without_the_secret_says_two_and_the_variable(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("UPSTREAM_KEY", raising=False)
    path.write_text(yaml.safe_dump(profile()), encoding="utf-8")
    assert main(["validate", str(path)]) == 2
    assert "UPSTREAM_KEY is not set" in capsys.readouterr().err


def test_validate_of_a_good_profile_says_zero_and_its_hash(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = profile()
    tree["frontier"]["providers"][0]["api_key"] = "none"
    config = load(path, tree)
    assert main(["validate", str(path)]) == 0
    assert config.hash in capsys.readouterr().out


def test_section_under_its_name_of_the_version_before_is_read_with_a_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = load(path, profile(release={"keepalive_s": 0.5}))
    assert old.response.keepalive_s == 0.5
    assert "`release` is called `response` now" in caplog.text
    assert old.hash == load(path, profile(response={"keepalive_s": 0.5})).hash
