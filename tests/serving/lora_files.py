"""Adapter folders as training leaves them, small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


def write_adapter(folder: Path, value: float = 0.0, **settings: Any) -> Path:
    """A LoRA of one matrix; value: what its weights are, so that two of them differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rank = settings.get("r", 4)
    tensors = {
        f"{LAYER}.lora_A.weight": np.full((rank, 8), value, np.float32),
        f"{LAYER}.lora_B.weight": np.full((8, rank), value, np.float32),
    }
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")
    written = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"], **settings}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder
