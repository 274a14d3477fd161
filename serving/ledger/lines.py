"""Writes and reads one request as one line of JSON, the format of the spool and of exports."""

import json

from routing.records import RequestRecord


def to_line(record: RequestRecord) -> bytes:
    """UTF-8 JSON without a line break. Text that is not Unicode (lone surrogates) is escaped, never an error."""
    try:
        return record.model_dump_json().encode()
    except ValueError:
        return json.dumps(record.model_dump(mode="json")).encode("ascii")


def from_line(line: bytes | str) -> RequestRecord:
    """The record of a line. Raises ValueError (pydantic's ValidationError) when the line is not a record."""
    return RequestRecord.model_validate_json(line)
