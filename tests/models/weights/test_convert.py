"""A real GGUF file through the real converter: the same numbers, a tokenizer that agrees with itself, no hub."""

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.weights.convert import convert
from models.weights.fetch import convert_in_subprocess

pytestmark = pytest.mark.slow

HIDDEN, LAYERS, HEADS, KV_HEADS, MLP = 64, 2, 4, 2, 128
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def write_gguf(path: Path, template: str | None) -> dict[str, np.ndarray[Any, Any]]:
    """A Qwen2 of random weights with a byte-level vocabulary; its tensors by their GGUF names, float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType
    from gguf.quants import dequantize, quantize
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, "th", "the", *SPECIAL]
    writer = GGUFWriter(path, "qwen2")
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in SPECIAL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    if template is not None:
        writer.add_chat_template(template)
    kv_width = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), HIDDEN),
        "output.weight": (len(tokens), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (HIDDEN,),
            "ffn_norm.weight": (HIDDEN,),
            "attn_q.weight": (HIDDEN, HIDDEN),
            "attn_k.weight": (kv_width, HIDDEN),
            "attn_v.weight": (kv_width, HIDDEN),
            "attn_q.bias": (HIDDEN,),
            "attn_k.bias": (kv_width,),
            "attn_v.bias": (kv_width,),
            "attn_output.weight": (HIDDEN, HIDDEN),
            "ffn_gate.weight": (MLP, HIDDEN),
            "ffn_up.weight": (MLP, HIDDEN),
            "ffn_down.weight": (HIDDEN, MLP),
        }
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    random = np.random.default_rng(0)
    meant = {}
    for name, shape in shapes.items():
        values = random.standard_normal(shape, dtype=np.float32)
        if len(shape) == 2:  # as in the real files: matrices are quantised, vectors are not
            packed = quantize(values, GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
            meant[name] = dequantize(packed, GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
            meant[name] = values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray[Any, Any]]]:
    folder = tmp_path_factory.mktemp("convert")
    meant = write_gguf(folder / "tiny.gguf", TEMPLATE)
    out = folder / "out"
    out.mkdir()
    convert_in_subprocess(folder / "tiny.gguf", out)
    return out, meant


Converted = tuple[Path, dict[str, np.ndarray[Any, Any]]]


def test_every_tensor_is_the_dequantised_one_in_bfloat16(converted: Converted) -> None:
    import torch
    from safetensors.torch import load_file

    out, meant = converted
    tensors = load_file(out / "model.safetensors")
    assert len(tensors) == len(meant)
    for ours, theirs in {
        "lm_head.weight": "output.weight",
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.1.self_attn.k_proj.weight": "blk.1.attn_k.weight",
        "model.layers.1.self_attn.v_proj.bias": "blk.1.attn_v.bias",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    }.items():
        assert tensors[ours].dtype == torch.bfloat16
        assert torch.equal(tensors[ours], torch.from_numpy(meant[theirs].copy()).to(torch.bfloat16)), ours


def test_configuration_says_nothing_of_a_quantisation_that_is_gone(converted: Converted) -> None:
    config = json.loads((converted[0] / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["dtype"] == "bfloat16"
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"]) == (64, 2, 2)
    assert "quantization_config" not in config


def test_tokenizer_and_chat_template_come_along(converted: Converted) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    text = tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False)
    assert text == "<|im_start|>user\nthe<|im_end|>\n"
    ids = tokenizer.encode(text)
    assert tokenizer.convert_ids_to_tokens([ids[0], ids[-3], ids[-2]]) == ["<|im_start|>", "the", "<|im_end|>"]
    assert tokenizer.eos_token == "<|im_end|>"


def test_saved_tokenizer_gives_the_same_ids_to_every_library(converted: Converted) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    decomposed = "cafe\u0301 the"
    plain = Tokenizer.from_file(str(converted[0] / "tokenizer.json")).encode(decomposed).ids
    assert plain == AutoTokenizer.from_pretrained(converted[0]).encode(decomposed)


def test_files_can_be_read_by_a_server_that_runs_as_somebody_else(converted: Converted) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in converted[0].iterdir()}
    (converted[0] / "fresh").touch()
    assert modes == {stat.S_IMODE((converted[0] / "fresh").stat().st_mode)}
    (converted[0] / "fresh").unlink()


def test_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "base.gguf", template=None)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"base\.gguf holds no chat template"):
        convert(tmp_path / "base.gguf", tmp_path / "out")
