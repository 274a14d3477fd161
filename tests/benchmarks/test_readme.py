"""The figures of benchmarks/README.md are those of the kept result that it names."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.readme import BEGIN, END, replaced, section

README = Path("benchmarks/README.md")


def test_readme_has_the_figures_of_the_result_it_names() -> None:
    text = README.read_text("utf-8")
    names = re.findall(r"\(results/([^)]+\.json)\)", text.split(BEGIN)[1].split(END)[0])
    assert names
    documents = [json.loads((Path("benchmarks/results") / name).read_text("utf-8")) for name in names]
    made = "\n\n".join(section(document, name) for document, name in zip(documents, names, strict=True))
    assert replaced(text, made) == text


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    assert replaced(f"a {BEGIN} old {END} b", "new") == f"a {BEGIN}\nnew\n{END} b"
    with pytest.raises(SystemExit, match="needs the lines"):
        replaced("no marks", "new")


def test_section_says_what_was_not_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = {"cores": 2, "processor": "p", "gpus": [], "load_average": 1.0}
    card = {"commit": "abc", "machine": machine, "config_hash": "h", "at": "2026-11-22"}
    document = {"card": card, "ceiling": {}, "sections": {}, "failed": {"peers": "no engine"}, "took_s": 60.0}
    result, readme = tmp_path / "r.json", tmp_path / "README.md"
    result.write_text(json.dumps(document))
    readme.write_text(f"{BEGIN}{END}")
    assert main(["readme", str(result), "--readme", str(readme)]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == ["r.json"]
    assert "commit abc" in readme.read_text()
    assert "peers (no engine)" in readme.read_text()
    assert "GPU rows are still to be measured" in readme.read_text()
