"""Write a language model of random weights with a real tokenizer: what it says is noise, what its engine caches is not.

Several engines of it start in seconds and share a small machine, which the smallest real model does not allow.
"""

from pathlib import Path
from typing import NamedTuple

WEIGHTS_SEED = 11


class Shape(NamedTuple):
    """How large the model is. Its vocabulary is the tokenizer's."""

    hidden_size: int = 64
    layers: int = 2
    heads: int = 2
    kv_heads: int = 2


def write_model(folder: Path, tokenizer_folder: Path, shape: Shape = Shape()) -> Path:  # noqa: B008 - a frozen value
    """Save it in `folder`, where vLLM can load it, and return the folder. A model that is there already is kept."""
    import torch  # noqa: PLC0415 - seconds to import
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig, Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    if (folder / "config.json").exists():
        return folder
    torch.manual_seed(WEIGHTS_SEED)
    config = Qwen2Config(
        vocab_size=AutoConfig.from_pretrained(tokenizer_folder).vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.hidden_size * 2,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_folder).save_pretrained(folder)
    return folder
