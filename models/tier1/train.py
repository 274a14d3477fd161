"""`python -m models train-tier1`: a LoRA adapter for tier 1 with TRL and PEFT, SFT or DPO, resumable.

Writes checkpoints while it runs, and at the end the adapter, the loss curve and what it was trained on. Run again with
the same --out it goes on from the last checkpoint.
"""

import argparse
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from models.data.prompts import read_prompts
from models.tier1.config import SUMMARY, TrainingConfig, load_training
from models.tier1.data import Example, examples_sha256, read_examples, split_examples, without
from models.tier1.loss import CpuSftTrainer
from models.tier1.loss_plot import draw_curves
from models.tier1.mixed_precision import cast_down
from models.weights.folder import cache_dir, model_dir

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
LOG_EVERY_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which configuration, which examples, where to."""
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="such as deploy/training/lora-cpu.yaml"
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="FILE", help="examples, JSON lines")
    parser.add_argument(
        "--eval-set", type=Path, nargs="*", default=[], metavar="FILE",
        help="prompts to be judged by later, JSON lines; examples that ask the same, or nearly, are left out",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoints, then the adapter")


def run(args: argparse.Namespace) -> str:
    """Train, or go on training, and say what was reached."""
    found = read_examples(args.data)
    examples = without(found, [prompt for path in args.eval_set for prompt in read_prompts(path)])
    facts = {"eval_sets": [path.name for path in args.eval_set], "n_left_out": len(found) - len(examples)}
    return json.dumps(train(load_training(args.config), examples, args.out, facts), indent=1)


def train(
    config: TrainingConfig, examples: list[Example], out: Path, facts: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Train one adapter into `out`; returns its summary, which `out`/training.json holds as well.

    facts: what else the summary should say, such as where the examples come from.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    set_seed(config.seed)
    kept, held = split_examples(examples, config.eval_ratio, config.seed)
    base = base_path(config.base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    trainer = make_trainer(config, model, tokenizer, kept, held, out)
    resumed = get_last_checkpoint(str(out / CHECKPOINTS)) if (out / CHECKPOINTS).is_dir() else None
    if resumed is not None:
        log.info("going on from %s", resumed)
    # What the base has; without it nobody sees that a training made it worse.
    trainer.args.eval_on_start = bool(held) and resumed is None
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumed)
    if held and not any("eval_loss" in row for row in trainer.state.log_history[-2:]):
        trainer.evaluate()  # unless its last step was one to evaluate after
    save_adapter(trainer.model, config.base, out)
    history = trainer.state.log_history
    draw_curves(history, out / "loss.png")
    summary = {
        "base": config.base,
        "method": config.method,
        "config": config.model_dump(mode="json"),
        "data_sha256": examples_sha256(examples),
        **(facts or {}),
        "n_train": len(kept),
        "n_eval": len(held),
        "categories": sorted({example.category for example in kept}),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "duration_s": round(time.perf_counter() - began, 1),
        "train_loss_first": next((row["loss"] for row in history if "loss" in row), None),
        "train_loss_last": next((row["loss"] for row in reversed(history) if "loss" in row), None),
        "eval_loss_first": next((row["eval_loss"] for row in history if "eval_loss" in row), None),
        "eval_loss": next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
        "history": [
            {key: row[key] for key in ("step", "loss", "eval_loss", "learning_rate") if key in row} for row in history
        ],
    }
    (out / SUMMARY).write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return {key: value for key, value in summary.items() if key not in ("history", "config")}


def save_adapter(model: Any, base: str, out: Path) -> None:
    """The weights in the base's dtype, as engines use them, and the settings: no tokenizer, no pickle, no path."""
    model = model.to(torch.bfloat16)
    for settings in model.peft_config.values():
        settings.base_model_name_or_path = base
    model.save_pretrained(str(out))
    (out / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def base_path(name: str) -> str:
    """The folder of a catalog model that was fetched; else the name itself, a folder or hub id."""
    folder = model_dir(cache_dir(), name)
    return str(folder) if folder.is_dir() else name


def make_trainer(
    config: TrainingConfig, model: Any, tokenizer: Any, kept: list[Example], held: list[Example], out: Path
) -> Any:
    """TRL's trainer of the configured method."""
    on_gpu = torch.cuda.is_available()
    common: dict[str, Any] = {
        "output_dir": str(out / CHECKPOINTS),
        "num_train_epochs": config.epochs,
        "max_steps": config.max_steps,
        "per_device_train_batch_size": config.batch_size,
        "per_device_eval_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "learning_rate": config.learning_rate,
        "warmup_steps": config.warmup_ratio,
        "max_grad_norm": config.max_grad_norm,
        "lr_scheduler_type": config.scheduler,
        "max_length": config.max_length_tokens,
        "save_steps": config.save_every_steps,
        "save_total_limit": 2,
        "eval_strategy": "steps" if held else "no",
        "eval_steps": config.save_every_steps,
        "logging_steps": LOG_EVERY_STEPS,
        "gradient_checkpointing": config.gradient_checkpointing,
        "bf16": on_gpu,  # on a CPU the weights are bfloat16 already, and autocast would only copy
        "use_cpu": not on_gpu,
        "report_to": "none",
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_pin_memory": on_gpu,
    }
    lora = config.lora
    modules = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    adapter = LoraConfig(
        r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=modules, task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, adapter, autocast_adapter_dtype=True)  # float32
    if lora.dtype == "bfloat16":
        cast_down(adapted)
    parts: dict[str, Any] = {
        "model": adapted,
        "train_dataset": dataset_of(kept, config),
        "eval_dataset": dataset_of(held, config) if held else None,
        "processing_class": tokenizer,
        "callbacks": [] if config.max_minutes is None else [StopAfter(config.max_minutes * 60)],
    }
    if config.method == "dpo":
        return DPOTrainer(args=DPOConfig(beta=config.dpo_beta, **common), **parts)
    sampling = "group_by_length" if config.group_by_length else "random"
    make = SFTTrainer if on_gpu else CpuSftTrainer
    return make(args=SFTConfig(completion_only_loss=True, train_sampling_strategy=sampling, **common), **parts)


def dataset_of(examples: list[Example], config: TrainingConfig) -> Dataset:
    """The rows TRL reads: conversations, with the answer or with both answers. Raises ValueError for a missing one."""
    names = ("completion",) if config.method == "sft" else ("chosen", "rejected")
    rows = []
    for example in examples:
        row: dict[str, Any] = {"prompt": [dict(message) for message in example.messages]}
        for name in names:
            text = getattr(example, name)
            if text is None:
                raise ValueError(f"example {example.id} has no {name!r}, which {config.method} needs")
            row[name] = [{"role": "assistant", "content": text}]
        rows.append(row)
    return Dataset.from_list(rows)


class StopAfter(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Save and end once a time is up; a later run goes on from there."""

    def __init__(self, limit_s: float) -> None:
        self._until = time.perf_counter() + limit_s

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """The trainer's hook after each optimizer step."""
        if time.perf_counter() >= self._until:
            control.should_save = control.should_training_stop = True
        return control
