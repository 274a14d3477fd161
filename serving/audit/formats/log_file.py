"""The lines of a log, plain or gzipped, in bounded memory with a progress bar, and the format they are in."""

import gzip
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
from tqdm import tqdm

from serving.audit.formats import ledger_export, openai_log
from serving.audit.formats.call import BadRow, BadRows, Call, LineReader
from serving.audit.formats.mapped_log import MappedReader
from serving.audit.formats.trace_log import TraceReader
from serving.errors import AuditError

MAX_LINE_BYTES = 64 * 2**20
PROGRESS_LINES = 2_000
GIVE_UP_LINES = 1_000  # of which none is a call: the wrong format, not a few bad rows
SNIFF_LINES = 100
FORMATS = ("openai", "ledger", "trace", "mapped")
DEFAULT_TRACE_BLOCK_TOKENS = 512


@contextmanager
def open_log(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """(decompressed lines, the file itself, whose position is the progress). Raises AuditError."""
    try:
        with path.open("rb") as raw:
            if path.suffix == ".gz":
                with gzip.open(raw) as lines:
                    yield io.BufferedReader(lines, 2**20), raw
            else:
                yield raw, raw
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise AuditError(f"{path}: {error.strerror}. Give the path of a .jsonl or .jsonl.gz file") from error
    except (gzip.BadGzipFile, EOFError) as error:
        raise AuditError(f"{path}: not a whole gzip file ({error}). Gunzip it to see how far it goes") from error


def sniff_format(path: Path) -> str:
    """The format of the first line that is a JSON object. Raises AuditError naming the formats there are."""
    with open_log(path) as (lines, _):
        for _ in range(SNIFF_LINES):
            line = lines.readline(MAX_LINE_BYTES)
            if not line:
                break
            try:
                row = msgspec.json.decode(line)
            except msgspec.DecodeError:
                continue
            if isinstance(row, Mapping):
                if "attempts" in row and "request_id" in row:
                    return "ledger"
                if "hash_ids" in row and "input_length" in row:
                    return "trace"
                if "response" in row or "request" in row:
                    return "openai"
                keys = ", ".join(list(row)[:12])
                raise AuditError(
                    f"{path}: a line with the keys {keys} is no format known here. Understood are OpenAI requests and "
                    "responses (request, response), ledger exports (request_id, attempts), traces (input_length, "
                    "hash_ids). For anything else say where the fields are: --map input_tokens=PATH ..."
                )
    raise AuditError(f"{path}: no JSON object in the first {SNIFF_LINES} lines. One object a line is expected")


def reader_for(form: str, mapping: Mapping[str, str], model: str | None, trace_block_tokens: int) -> LineReader:
    """What turns a line of this format into calls."""
    if form == "openai":
        return openai_log.read_line
    if form == "ledger":
        return ledger_export.read_line
    if form == "trace":
        return TraceReader(trace_block_tokens, model)
    return MappedReader(mapping, model)


def read_calls(path: Path, read_line: LineReader, bad: BadRows, *, quiet: bool = False) -> Iterator[Call]:
    """Every call of the log, in its order. Bad rows are counted in `bad` and left out.

    Raises AuditError when the first GIVE_UP_LINES hold no call at all, or the whole of a shorter log.
    """
    n_calls = 0
    with (
        open_log(path) as (lines, raw),
        tqdm(total=path.stat().st_size, desc="reading", unit="B", unit_scale=True, disable=quiet) as progress,
    ):
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES), b""), start=1):
            try:
                if len(line) == MAX_LINE_BYTES:
                    _skip_rest(lines)
                    raise BadRow("(line)", f"longer than {MAX_LINE_BYTES >> 20} MiB")
                if line.isspace():
                    continue
                for call in read_line(line):
                    n_calls += 1
                    yield call
            except (BadRow, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                bad.add(number, error)
                if not n_calls and bad.count >= GIVE_UP_LINES:
                    break
            if number % PROGRESS_LINES == 0:
                progress.update(raw.tell() - progress.n)
        progress.update(raw.tell() - progress.n)
    if not n_calls:
        first = bad.examples[0] if bad.examples else None
        why = f"; line {first['line']}, field {first['field']}: {first['problem']}" if first else ""
        raise AuditError(f"{path}: not one call in the first {bad.count} lines{why}")


def _skip_rest(lines: BinaryIO) -> None:
    while (rest := lines.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
