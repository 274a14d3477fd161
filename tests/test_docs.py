"""The documents are true: folders, commands, import arrows and links exist as they say, and nothing names a machine."""

import argparse
import ast
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import yaml

import benchmarks.__main__
import models.__main__
import serving.__main__
from routing.records import RequestedModel
from serving.api.chat import read_chat
from serving.api.fields import WireLimits
from serving.commands.plan import plan
from serving.config import SECRET, parse_config

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", "benchmarks/README.md"]
CODE_FOLDERS = ["routing", "serving", "models", "benchmarks"]
MAINS: dict[str, Callable[[list[str]], int]] = {
    "serving": serving.__main__.main,
    "models": models.__main__.main,
    "benchmarks": benchmarks.__main__.main,
}


@cache
def tracked() -> list[str]:
    """Every file that git has."""
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def table(document: str, heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the second or third level, without its head."""
    section = re.split(r"^##+ ", read(document).partition(f"## {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 2, f"{document} has no table below {heading!r}"
    return rows[2:]


def code(document: str) -> Iterator[str]:
    """What stands in code spans and code blocks."""
    text = read(document)
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


# The folders and their rooms


@pytest.mark.parametrize(
    ("document", "heading"), [("README.md", "Where things are"), ("CONTRIBUTING.md", "Where code lives")]
)
def test_table_of_folders_is_the_folders(document: str, heading: str) -> None:
    named = {row[0].strip("`/") for row in table(document, heading)}
    there = {name.partition("/")[0] for name in tracked() if "/" in name}
    assert named == {folder for folder in there if not folder.startswith(".")}


def rooms_there(folder: str) -> set[str]:
    """Folders of Python right below a folder, and the modules beside them that have a name of their own."""
    below = [name.split("/")[1:] for name in tracked() if name.startswith(f"{folder}/") and name.endswith(".py")]
    folders = {f"{parts[0]}/" for parts in below if len(parts) > 1}
    return folders | {parts[0] for parts in below if len(parts) == 1 and not parts[0].startswith("__")}


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_table_of_rooms_is_the_rooms(folder: str) -> None:
    assert {row[0].strip("`") for row in table("CONTRIBUTING.md", f"Rooms of {folder}")} == rooms_there(folder)


MOST_FILES = 16


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_no_folder_has_more_files_beside_each_other_than_a_reader_takes_in(folder: str) -> None:
    """CONTRIBUTING.md names the number. `__init__.py` is not counted."""
    files = Counter(
        name.rpartition("/")[0]
        for name in tracked()
        if name.startswith(f"{folder}/") and name.endswith(".py") and not name.endswith("/__init__.py")
    )
    assert {where: n for where, n in files.items() if n > MOST_FILES} == {}
    assert f"at most {MOST_FILES} files" in read("CONTRIBUTING.md")


def test_deploy_holds_no_python() -> None:
    assert not [name for name in tracked() if name.startswith("deploy/") and name.endswith(".py")]


# The arrows


def may_import(folder: str) -> set[str]:
    """What the table in CONTRIBUTING.md allows a folder besides the standard library; packages by import name."""
    (row,) = [row for row in table("CONTRIBUTING.md", "Where code lives") if row[0] == f"`{folder}/`"]
    return {name.strip("` ").replace("-", "_") for name in row[2].split(",")}


def imported(folder: str) -> set[str]:
    """Modules of other folders and third-party packages that a folder's files name in an import, wherever it stands."""
    seen: set[str] = set()
    for name in tracked():
        if not (name.startswith(f"{folder}/") and name.endswith(".py")):
            continue
        for node in ast.walk(ast.parse(read(name))):
            if isinstance(node, ast.Import):
                seen |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                seen.add(node.module)
    outside = {module for module in seen if module.partition(".")[0] not in {*sys.stdlib_module_names, folder}}
    return {module if module.partition(".")[0] in CODE_FOLDERS else module.partition(".")[0] for module in outside}


def is_below(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_folder_imports_no_more_than_its_line_allows(folder: str) -> None:
    allowed = may_import(folder)
    others = {module for module in imported(folder) if module.partition(".")[0] in CODE_FOLDERS}
    assert {module for module in others if not any(is_below(module, a) for a in allowed)} == set()


def test_decisions_need_only_the_packages_named() -> None:
    """The others may use any package; what decides is kept free of I/O."""
    assert imported("routing") == may_import("routing")


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_import_linter_holds_the_same_arrows(folder: str) -> None:
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    forbidden = {m for c in contracts if c.get("source_modules") == [folder] for m in c["forbidden_modules"]}
    allowed = may_import(folder)
    for other in set(CODE_FOLDERS) - {folder}:
        if other in allowed:
            assert not any(is_below(module, other) for module in forbidden)
        elif any(is_below(module, other) for module in allowed):
            assert any(is_below(module, other) for module in forbidden)
            assert not {m for m in forbidden if any(is_below(m, a) or is_below(a, m) for a in allowed)}
        else:
            assert other in forbidden


@pytest.mark.parametrize("folder", CODE_FOLDERS)
def test_table_of_layers_is_what_import_linter_holds(folder: str) -> None:
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (held,) = [c["layers"] for c in contracts if c.get("containers") == [folder]]
    (row,) = [row for row in table("CONTRIBUTING.md", "Layers") if row[0] == f"`{folder}`"]
    # A cell of a table cannot hold import-linter's own mark, |.
    assert [layer.strip("` ").replace("/", "|") for layer in row[1].split(">")] == held


def test_every_vllm_import_is_in_its_files() -> None:
    users = [
        name
        for name in tracked()
        if name.partition("/")[0] in CODE_FOLDERS
        and name.endswith(".py")
        and re.search(r"^\s*(from|import) vllm\b", read(name), re.MULTILINE)
    ]
    assert users == [f"serving/engine/vllm_{name}.py" for name in ("engine", "errors", "load", "watch")]


# Commands


def make_targets() -> dict[str, str]:
    """Target → its line of help."""
    return dict(re.findall(r"^([a-z0-9-]+):.*## (.+)$", read("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_make_target_named_exists_and_explains_itself(document: str) -> None:
    named = {target for text in code(document) for target in re.findall(r"\bmake ([a-z0-9-]+)", text)}
    assert named <= set(make_targets())


def test_readme_names_the_two_commands_a_newcomer_needs() -> None:
    named = {target for text in code("README.md") for target in re.findall(r"\bmake ([a-z0-9-]+)", text)}
    assert {"serve", "test"} <= named


def test_every_target_that_is_no_file_is_phony_and_helps() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", read("Makefile"), re.MULTILINE)
    assert set(phony.split()) == set(make_targets())


def commands_named() -> set[tuple[str, ...]]:
    """(package, command) of every `python -m` in the documents; the ledger's with its action."""
    pattern = re.compile(r"python -m (serving|models|benchmarks) (ledger [a-z-]+|[a-z0-9-]+)")
    found = {match for document in DOCUMENTS for text in code(document) for match in pattern.findall(text)}
    return {(package, *command.split()) for package, command in found}


@pytest.mark.parametrize("command", sorted(commands_named()), ids=" ".join)
def test_every_command_named_can_be_asked_for_help(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    package, *words = command
    with pytest.raises(SystemExit) as end:
        MAINS[package]([*words, "--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_commands_are_named_at_all() -> None:
    assert {
        ("serving", "serve"),
        ("serving", "ask"),
        ("models", "fetch"),
        ("benchmarks", "gateway"),
    } <= commands_named()


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of a language, at least one."""
    found = re.findall(rf"^```{language}\n(.*?)^```", read(document), re.MULTILINE | re.DOTALL)
    assert found, f"{document} has no {language}"
    return found


def shell_commands(document: str) -> Iterator[list[str]]:
    """The words of every command in the shell blocks, comments and line breaks taken out."""
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s&&\s", line):
                if words := shlex.split(part, comments=True):
                    yield words


COMMANDS: dict[str, Mapping[str, tuple[str, str]]] = {
    "serving": serving.__main__.COMMANDS,
    "models": models.__main__.COMMANDS,
    "benchmarks": benchmarks.__main__.BENCHMARKS,
}


@pytest.mark.parametrize(
    "words",
    [words for name in ("README.md", "benchmarks/README.md") for words in shell_commands(name)],
    ids=lambda words: " ".join(words)[:60],
)
def test_every_shell_command_is_understood(words: list[str]) -> None:
    """A command of ours by its own parser, a make target by name, a curl by what the gateway reads."""
    if words[0] == "make":
        assert set(words[1:]) <= set(make_targets())
    elif words[0] == "curl":
        (url,) = [word for word in words if word.startswith("http://")]
        assert url == "http://127.0.0.1:8000/v1/chat/completions"
        body = read_chat(words[words.index("-d") + 1].encode(), WireLimits(), vocab_size=1)
        assert body.model in set(RequestedModel)
    elif words[0] == "export":
        assert re.fullmatch(r"[A-Z_]+=\S+", words[1])
    else:
        assert words[:2] == [".venv/bin/python", "-m"]
        package, command, *options = words[2:]
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[package][command][0]).add_arguments(parser)
        parser.parse_args(options)


def test_profiles_in_readme_are_read_as_a_profile_is() -> None:
    for profile in blocks("README.md", "yaml"):
        env = dict.fromkeys(SECRET.findall(profile), "a secret")
        config = parse_config(yaml.safe_load(profile), env, "README.md")
        assert config.cost.baseline in config.cost.frontier
        assert {engine.name for engine in plan(config).engines} == {"router", "tier1"}  # raises when they do not fit


def test_code_in_readme_asks_the_way_the_sdk_can() -> None:
    for example in blocks("README.md", "python"):
        options = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.keyword)]
        (model,) = [ast.literal_eval(node.value) for node in options if node.arg == "model"]
        assert model in set(RequestedModel)
        (url,) = [ast.literal_eval(node.value) for node in options if node.arg == "base_url"]
        assert url == "http://127.0.0.1:8000/v1"


def test_fields_that_readme_shows_are_fields_of_the_response() -> None:
    documented = {row[0].strip("`") for row in table("deploy/README.md", "What a response says") if "-" not in row[0]}
    for example in blocks("README.md", "json"):
        assert set(json.loads(example)["tierwise"]) <= documented


def test_ci_runs_what_the_readme_tells_a_newcomer_to_run() -> None:
    assert "make test" in read(".ci/run").splitlines()
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


# Words


@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_every_link_and_file_named_is_there(document: str) -> None:
    text = read(document)
    here = (ROOT / document).parent
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    files = [
        name
        for span in code(document)
        for name in re.findall(r"^[\w.-]+(?:/[\w.-]+)*/[\w-]+\.(?:py|yaml|txt|md)$", span)
    ]
    for name in [*links, *files]:
        assert (here / name).exists() or (ROOT / name).exists(), f"{document} names {name}"


def test_changelog_has_what_is_not_released_yet() -> None:
    first, *_ = re.findall(r"^## (.+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert first == "[Unreleased]"
    assert table_of_changes(), "nothing to tell"


def table_of_changes() -> list[str]:
    """The entries of the unreleased section."""
    section = read("CHANGELOG.md").partition("## [Unreleased]")[2].partition("\n## ")[0]
    return re.findall(r"^- .+", section, re.MULTILINE)


MACHINE_PATHS = [f"/{folder}/" for folder in ("work", "root", "home")]
REGISTRIES = [".".join(name) for name in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("crates", "io"))]


@pytest.mark.parametrize("word", [*MACHINE_PATHS, *REGISTRIES])
def test_no_file_names_a_machine_or_a_registry(word: str) -> None:
    """A path of somebody's machine or a registry's host works nowhere else."""
    pattern = re.compile(rf"(?<![\w.]){re.escape(word)}".encode() if word.startswith("/") else re.escape(word).encode())
    assert [name for name in tracked() if pattern.search((ROOT / name).read_bytes())] == []
