"""`python -m models answer`: what tier 1 says to held-out prompts, with or without an adapter, one answer a line.

Greedy and in batches of like length, so that a base and its adapter differ by the adapter alone. A program grades the
answers (`python -m benchmarks tasks grade`); `python -m models compare` puts two graded files side by side.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from models.errors import ModelsError
from models.tier1.train import base_path

MAX_NEW_TOKENS = 96


class PromptsInvalid(ModelsError):
    """A file of prompts cannot be read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, which prompts."""
    parser.add_argument("--base", required=True, help="name in the catalog, a folder, or a hub id")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="LoRA adapter on top; none: the base alone")
    parser.add_argument("--prompts", type=Path, required=True, metavar="FILE", help='lines of {"id", "messages"}')
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help='lines of {"id", "output"}')
    parser.add_argument("--limit-per-kind", type=int, help="use at most so many prompts of each kind or category")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, help="CPU threads; none: torch's own choice")


def run(args: argparse.Namespace) -> str:
    """Answer and say how many."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    prompts = read_prompts(args.prompts, args.limit_per_kind)
    tokenizer = AutoTokenizer.from_pretrained(base_path(args.base), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base_path(args.base), dtype=torch.bfloat16)
    if args.adapter is not None:
        model = PeftModel.from_pretrained(model, str(args.adapter))
    model.eval()
    outputs = answer(model, tokenizer, prompts, args.batch_size)
    with args.out.open("w", encoding="utf-8") as out:
        for line, output in zip(prompts, outputs, strict=True):
            out.write(json.dumps({"id": line["id"], "output": output}, ensure_ascii=False) + "\n")
    return json.dumps({"n": len(prompts), "out": str(args.out)})


def read_prompts(path: Path, limit_per_kind: int | None) -> list[dict[str, Any]]:
    """The lines to answer. Raises PromptsInvalid."""
    kept: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    try:
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            kind = str(line.get("kind", line.get("category", "")))
            seen[kind] = seen.get(kind, 0) + 1
            if line["messages"] and (limit_per_kind is None or seen[kind] <= limit_per_kind):
                kept.append(line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PromptsInvalid(f"{path}: {error!r}") from error
    return kept


def answer(model: Any, tokenizer: Any, prompts: Sequence[dict[str, Any]], batch_size: int) -> list[str]:
    """Greedy answers in the order of the prompts."""
    texts = [
        tokenizer.apply_chat_template(line["messages"], tokenize=False, add_generation_prompt=True) for line in prompts
    ]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    outputs = [""] * len(texts)
    for start in tqdm(range(0, len(order), batch_size), desc="answers", unit="batch"):
        rows = order[start : start + batch_size]
        inputs = tokenizer([texts[i] for i in rows], return_tensors="pt", padding=True, add_special_tokens=False)
        limit = max(int(prompts[i].get("max_tokens", MAX_NEW_TOKENS)) for i in rows)
        with torch.inference_mode():
            generated = model.generate(
                **inputs,
                max_new_tokens=limit,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                repetition_penalty=1.0,
                pad_token_id=tokenizer.pad_token_id,
            )
        fresh = generated[:, inputs["input_ids"].shape[1] :]
        for i, ids in zip(rows, fresh, strict=True):
            kept = ids[: int(prompts[i].get("max_tokens", MAX_NEW_TOKENS))]
            outputs[i] = tokenizer.decode(kept, skip_special_tokens=True)
    return outputs
