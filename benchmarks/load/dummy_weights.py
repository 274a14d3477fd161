"""A 7B model without its weights, for machines that cannot fetch them: vLLM fills the shape at random when it loads.

It says nothing, at the speed and with the memory of the real one.
"""

import json
from pathlib import Path
from typing import Any

MODELS = Path(".cache/tierwise/models")
# Qwen2.5-7B, from its published config.json: what `load_format: dummy` needs beside a tokenizer.
SHAPE_7B: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "dtype": "bfloat16",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


def weights_or_shape(model: str, scratch: Path) -> tuple[Path, bool]:
    """(folder of a model, whether its weights are made up): the fetched one, or a shape that vLLM fills at random."""
    fetched = MODELS / model
    if (fetched / "config.json").is_file():
        return fetched, False
    return write_shape(scratch / "dummy-7b"), True


def write_shape(folder: Path) -> Path:
    """Config of a 7B model and the embedded models' tokenizer, which is of its family. No weights."""
    folder.mkdir(parents=True, exist_ok=True)
    source = MODELS / "qwen2.5-coder-0.5b-instruct"
    for name in TOKENIZER_FILES:
        (folder / name).write_bytes((source / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(SHAPE_7B, indent=1), "utf-8")
    return folder
