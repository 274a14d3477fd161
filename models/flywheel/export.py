"""`python -m models export`: training sets from the ledger's samples, redacted, without duplicates, split by time.

An export that holds a prompt of an evaluation set fails and names the set. Nothing is written then.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from models.data.dedup import leaked, unique
from models.data.prompts import EvaluationLeak, read_prompts
from models.errors import ModelsError
from models.flywheel.implicit import implicit_signals
from models.flywheel.labels import cap_tenants, graded_pairs, read_references
from models.tier1.data import Example
from routing.learning.labels import Pair
from routing.learning.samples import Feedback, Sample, SampleSource
from routing.text.redaction import findings
from serving.errors import ConfigInvalid
from serving.ledger.config import LedgerConfig
from serving.ledger.samples import SampleStore
from serving.ledger.store import StorageDown


class SecretLeft(ModelsError):
    """A text of the export still holds a secret; the message names the sample and the kind, never the text."""


class NothingToExport(ModelsError):
    """No sample made an example."""


class LedgerAway(ModelsError):
    """The ledger cannot be read."""


class ExportKind(StrEnum):
    """What an export is for."""

    ROUTER = "router"  # graded pairs
    SFT = "sft"  # the frontier's answers, and clients' corrections, as targets
    DPO = "dpo"  # the frontier's answer over the draft that was worse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, from where, to where, and against which evaluation sets it is checked."""
    parser.add_argument("kind", type=ExportKind, choices=list(ExportKind))
    parser.add_argument("--ledger", required=True, metavar="URL", help="as ledger.url of the profile")
    parser.add_argument("--spool", default=None, metavar="DIR", help="as ledger.spool_dir; needed with Postgres")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="train.jsonl and heldout.jsonl")
    parser.add_argument("--eval-set", type=Path, nargs="*", default=[], metavar="FILE", help="JSON lines with prompts")
    parser.add_argument("--references", type=Path, metavar="FILE", help='lines of {"prompt", "answer"}')
    parser.add_argument("--since", type=instant, help="first moment, ISO 8601")
    parser.add_argument("--heldout-ratio", type=float, default=0.2, help="share held out, the latest in time (0..1)")


def run(args: argparse.Namespace) -> str:
    """Export and say how much became of what."""
    samples, feedback = read_samples(LedgerConfig(url=args.ledger, spool_dir=args.spool), args.since)
    references = {} if args.references is None else read_references(args.references)
    sets = {str(path): read_prompts(path) for path in args.eval_set}
    lines, report = make_export(args.kind, samples, feedback, references, sets)
    report["implicit"] = [signals.model_dump() for signals in implicit_signals(samples)]
    train, heldout = split_by_time(lines, args.heldout_ratio)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train.jsonl", train), ("heldout.jsonl", heldout)):
        (args.out / name).write_text("".join(f"{line}\n" for _, line in part), encoding="utf-8")
    return json.dumps({**report, "n_train": len(train), "n_heldout": len(heldout), "out": str(args.out)}, indent=1)


def read_samples(config: LedgerConfig, since: datetime | None = None) -> tuple[list[Sample], list[Feedback]]:
    """Read the samples and the feedback. Raises LedgerAway."""
    try:
        store = SampleStore(config)
        try:
            return store.all_samples(since), store.all_feedback(since)
        finally:
            store.close()
    except (StorageDown, ConfigInvalid) as error:
        raise LedgerAway(str(error)) from error


def instant(text: str) -> datetime:
    """An ISO 8601 moment, UTC when it names no offset."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def make_export(
    kind: ExportKind,
    samples: Sequence[Sample],
    feedback: Sequence[Feedback],
    references: Mapping[str, str],
    evaluation: Mapping[str, Sequence[str]],
) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """([(instant, JSON line)], report). Raises EvaluationLeak, SecretLeft, NothingToExport.

    evaluation: prompts by the name of their set.
    """
    prompt_of = {sample.request_id: sample.messages[-1]["content"] for sample in samples}
    report: dict[str, Any] = {"kind": kind, "n_samples": len(samples)}
    rows: Sequence[Pair | Example]
    if kind is ExportKind.ROUTER:
        pairs, cut = cap_tenants(graded_pairs(samples, feedback, references))
        report |= {"n_graded": len(pairs), "cut_by_tenant": cut}
        rows = pairs
    elif kind is ExportKind.SFT:
        rows = sft_examples(samples, feedback, references)
    else:
        rows = dpo_examples(samples, feedback, references)
    rows = unique(rows, [prompt_of[row.id] for row in rows])
    report["n_unique"] = len(rows)
    if not rows:
        raise NothingToExport(
            f"none of {len(samples)} samples makes a line for {kind}; keep texts and shadow with `learning:` first"
        )
    prompts = [prompt_of[row.id] for row in rows]
    for name, held in evaluation.items():
        found = leaked(prompts, held)
        if found:
            ids = ", ".join(rows[i].id for i in found[:5])
            raise EvaluationLeak(
                f"{len(found)} prompts are in the evaluation set {name}, for example {ids}; nothing written"
            )
    at = {sample.request_id: sample.at for sample in samples}
    lines = [(at[row.id], row.model_dump_json(exclude_none=True)) for row in rows]
    for row, (_, line) in zip(rows, lines, strict=True):
        if kinds := findings(without_ids(line)):
            raise SecretLeft(f"sample {row.id} holds {', '.join(kinds)} after redaction; nothing written")
    return lines, report


def without_ids(line: str) -> str:
    """The line's texts, without our own identifiers and hashes."""
    doc = json.loads(line)
    doc.pop("provenance", None)
    doc.pop("id", None)
    return json.dumps(doc, ensure_ascii=False)


def sft_examples(
    samples: Sequence[Sample], feedback: Sequence[Feedback], references: Mapping[str, str]
) -> list[Example]:
    """The frontier's answer, or the client's correction, as the target; not where the frontier is known to be wrong."""
    corrections = {word.request_id: word.correction for word in feedback if word.correction is not None}
    wrong = {pair.id for pair in graded_pairs(samples, feedback, references) if pair.frontier_quality < 0.5}
    found = []
    for sample in samples:
        target = corrections.get(sample.request_id)
        if target is None and sample.request_id not in wrong:
            target = sample.frontier_output
        if target:
            found.append(
                Example(id=sample.request_id, category=sample.category, messages=sample.messages, completion=target)
            )
    return found


def dpo_examples(
    samples: Sequence[Sample], feedback: Sequence[Feedback], references: Mapping[str, str]
) -> list[Example]:
    """The frontier's answer over a draft that was graded worse or that the gate rejected."""
    worse = {pair.id for pair in graded_pairs(samples, feedback, references) if pair.gain > 0}
    return [
        Example(
            id=sample.request_id,
            category=sample.category,
            messages=sample.messages,
            chosen=sample.frontier_output,
            rejected=sample.tier1_output,
        )
        for sample in samples
        if sample.frontier_output
        and sample.tier1_output
        and sample.frontier_output != sample.tier1_output
        and (sample.request_id in worse or sample.source is SampleSource.ESCALATION)
    ]


def split_by_time(
    lines: Sequence[tuple[str, str]], heldout_ratio: float
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(earlier, later): what was asked last is held out, as in life. Instants are UTC texts of one length."""
    ordered = sorted(lines)
    cut = len(ordered) - round(heldout_ratio * len(ordered))
    return ordered[:cut], ordered[cut:]
