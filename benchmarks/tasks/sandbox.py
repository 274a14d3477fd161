"""Run a function that a model wrote, within bounds: a checked syntax tree, an own process, limits of the kernel.

The check comes first: no imports, no underscores, none of the builtins that reach out. What is left can only compute,
and the process it computes in has a second, 256 MiB, no files and no environment.
"""

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

TIMEOUT_S: Final = 5.0
CPU_S: Final = 1
MEMORY_BYTES: Final = 256 * 2**20
MAX_SOURCE_CHARS: Final = 4000
BUILTINS: Final = (
    "abs all any bool dict divmod enumerate filter float int isinstance len list map max min print range repr reversed"
    " round set sorted str sum tuple zip True False None ValueError TypeError"
)

_CHILD = """
import builtins, json, sys
job = json.load(sys.stdin)
space = {"__builtins__": {name: getattr(builtins, name) for name in job["builtins"]}}
space["__builtins__"]["print"] = lambda *a, **k: None
exec(compile(job["source"], "answer", "exec"), space)
print(json.dumps([space[job["function"]](*args) for args in job["arguments"]]))
"""


def returns_all(source: str, function: str, cases: Sequence[tuple[list[Any], Any]]) -> bool:
    """Whether the function defined by `source` gives the expected result of every (arguments, expected)."""
    if not harmless(source):
        return False
    job = {
        "source": source,
        "function": function,
        "builtins": BUILTINS.split(),
        "arguments": [arguments for arguments, _ in cases],
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={},
            preexec_fn=bound,
            check=False,
        )
        return done.returncode == 0 and typed(json.loads(done.stdout)) == typed([expected for _, expected in cases])
    except (subprocess.TimeoutExpired, ValueError):
        return False


def typed(value: Any) -> Any:
    """JSON in which True is not 1."""
    return [typed(item) for item in value] if isinstance(value, list) else (type(value) is bool, value)


def bound() -> None:
    """Limits of the child, set between fork and exec."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def harmless(source: str) -> bool:
    """Whether the source parses and can only compute: no import, no underscore name, no builtin beyond BUILTINS."""
    if len(source) > MAX_SOURCE_CHARS:
        return False
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Global | ast.Nonlocal | ast.Await | ast.AsyncFunctionDef):
            return False
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        if name.startswith("_") or name in ("format", "format_map"):
            return False
    return True
