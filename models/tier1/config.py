"""One file says how tier 1 is trained: the same fields for SFT and DPO, on a CPU, one GPU or several."""

from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError

from models.errors import ModelsError
from routing.records import Record


class TrainingInvalid(ModelsError):
    """The training configuration was refused. The message names every wrong key."""


class LoraSection(Record):
    """The adapter. vLLM's `tier1.max_lora_rank` has to be at least `r`."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of their products; the weights are float32. bfloat16 halves a step on a CPU with AMX",
    )


class TrainingConfig(Record):
    """How one adapter is trained. Steps are optimizer steps."""

    base: str = Field(description="name in the catalog, a folder, or a hub id")
    method: Literal["sft", "dpo"] = "sft"
    lora: LoraSection = LoraSection()
    epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1, description="-1: as many as the epochs take")
    max_minutes: float | None = Field(None, gt=0, description="stop after a checkpoint once so long")
    batch_size: int = Field(8, ge=1, description="per device")
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    max_grad_norm: float = Field(1.0, gt=0, description="a longer gradient is scaled down to it")
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    max_length_tokens: int = Field(256, ge=16, description="prompt and answer; a longer example is cut at its end")
    dpo_beta: float = Field(0.1, gt=0)
    save_every_steps: int = Field(25, ge=1)
    eval_ratio: float = Field(0.05, ge=0, lt=1, description="share of questions kept for the evaluation loss")
    gradient_checkpointing: bool = False
    group_by_length: bool = Field(
        False,
        description="SFT: batches of like length, so that less of a step is padding. Where length tells the kind of"
        " task, a step then sees one kind alone, and steps undo each other",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads; None: torch's own choice")
    seed: int = 0


def load_training(path: Path) -> TrainingConfig:
    """Read one configuration. Raises TrainingInvalid."""
    try:
        return TrainingConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TrainingInvalid(f"cannot read {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise TrainingInvalid(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or '(top level)'}: {e['msg']}" for e in error.errors()]
        raise TrainingInvalid("\n".join([f"{path} is not a training configuration:", *lines])) from error


SUMMARY: Final = "training.json"
