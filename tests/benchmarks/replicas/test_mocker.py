"""benchmarks/replicas/mocker.py: the mocker is asked about the same tier, and its answer set beside ours.

The mocker is a stand-in here, a program that keeps what it was asked; the real one is in the peers' environment.
"""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.replicas.mocker import Reference, first_lines, references
from benchmarks.replicas.replay import Row, Setup

LINES = [
    {"timestamp": 3000, "input_length": 1100, "output_length": 2, "hash_ids": [1, 2, 3]},
    {"timestamp": 0, "input_length": 600, "output_length": 2, "hash_ids": [1, 2]},
]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


def stand_in(folder: Path, body: str) -> Path:
    """A program in the place of the mocker's Python; `asked` is what came on its standard input."""
    program = folder / "python-of-the-peers"
    program.write_text(f"#!{sys.executable}\nimport json, sys\nasked = json.load(sys.stdin)\n{body}\n")
    program.chmod(0o755)
    return program


def answering(folder: Path) -> Path:
    return stand_in(
        folder,
        f"open({str(folder / 'asked')!r}, 'a').write(json.dumps(asked) + '\\n')\n"
        "print('a word of its own')\n"
        "print(json.dumps({'told': {'prefix_cache_reused_ratio': 0.1, 'mean_ttft_ms': 700.0}}))",
    )


def row(policy: str, hit_rate: float) -> Row:
    return Row(policy, 4, 1, hit_rate, None, 0.1, 0.1, 0.1, 1.0, 0.25)


def test_the_mocker_gets_the_same_tier_and_only_the_policies_it_has(tmp_path: Path, trace: Path) -> None:
    setup = Setup(replicas=4, capacity_tokens=51_200, prefill_tokens_per_s=10_000.0)
    rows = [row("kv_aware", 0.2), row("round_robin", 0.11), row("dynamo", 0.13)]
    found = references(answering(tmp_path), trace, None, 2.0, setup, rows)
    assert [(one.policy, one.hit_rate, one.ttft_mean_s) for one in found] == [
        ("round_robin", 0.1, 0.7),
        ("dynamo", 0.1, 0.7),
    ]
    assert [one.difference for one in found] == pytest.approx([0.01, 0.03])
    assert [one.agrees for one in found] == [True, False]
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert [one["router_mode"] for one in asked] == ["round_robin", "kv_router"]
    same = {"replicas": 4, "block_size_tokens": 512, "capacity_blocks": 100, "arrival_speed": 2.0, "engine_speed": 0.25}
    assert all(same.items() <= one.items() for one in asked)


def test_the_mocker_gets_the_requests_in_order_of_arrival(trace: Path) -> None:
    assert [json.loads(line) for line in first_lines(trace, None)] == [LINES[1], LINES[0]]
    assert [json.loads(line) for line in first_lines(trace, 1)] == [LINES[1]]


@pytest.mark.parametrize(("difference", "agrees"), [(0.015, True), (-0.015, True), (0.0151, False), (-0.0151, False)])
def test_one_and_a_half_points_of_hit_rate_are_agreement(difference: float, agrees: bool) -> None:
    assert Reference("dynamo", 4, 0.1, difference, 1.0).agrees is agrees


def test_the_rows_are_printed_and_in_the_json(tmp_path: Path, trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = answering(tmp_path)
    assert main(["replicas", "--trace", str(trace), "--policy", "dynamo", "--mocker", str(python)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Dynamo mocker") for line in lines)
    [told] = json.loads(lines[-1])["mocker"]
    assert (told["policy"], told["hit_rate"]) == ("dynamo", 0.1)


@pytest.mark.parametrize(
    ("body", "said"),
    [("raise ValueError('no such router')", "no such router"), ("sys.exit(3)", "nothing was said")],
)
def test_a_mocker_that_fails_ends_the_run_with_its_last_words(
    tmp_path: Path, trace: Path, body: str, said: str
) -> None:
    with pytest.raises(SystemExit, match=f"{said}.*make bench-peers"):
        main(["replicas", "--trace", str(trace), "--policy", "dynamo", "--mocker", str(stand_in(tmp_path, body))])


def test_a_python_that_is_not_there_is_named(tmp_path: Path, trace: Path) -> None:
    with pytest.raises(SystemExit, match="no-python"):
        main(["replicas", "--trace", str(trace), "--policy", "dynamo", "--mocker", str(tmp_path / "no-python")])
