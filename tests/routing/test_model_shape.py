"""A model's weights and KV cache follow from the numbers in its config.json."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.weights.catalog import load_catalog
from routing.model_shape import FP8_BYTES, ModelShape

SHAPES = {model.name: model.shape for model in load_catalog().models if model.shape is not None}

shapes = st.builds(
    lambda kv_heads, per_kv_head, **rest: ModelShape(kv_heads=kv_heads, heads=kv_heads * per_kv_head, **rest),
    kv_heads=st.sampled_from([1, 2, 4, 8]),
    per_kv_head=st.integers(1, 8),
    layers=st.integers(1, 100),
    hidden=st.integers(64, 8192),
    intermediate=st.integers(64, 32768),
    head_dim=st.sampled_from([64, 128]),
    vocabulary=st.integers(1000, 300_000),
    tied_embeddings=st.booleans(),
    qkv_bias=st.booleans(),
    qk_norm=st.booleans(),
    experts=st.sampled_from([0, 8, 128]),
)


@pytest.mark.parametrize(
    ("name", "total_bytes"),
    [
        # total_size in model.safetensors.index.json on the hub. For embedded ones, the converted file minus its header
        ("qwen2.5-7b-instruct", 15_231_233_024),
        ("qwen2.5-coder-0.5b-instruct", 1_260_334_848),
        ("qwen2.5-coder-1.5b-instruct", 3_554_176_000),
    ],
)
def test_weights_are_as_large_as_the_published_files(name: str, total_bytes: int) -> None:
    assert SHAPES[name].weights_bytes() == total_bytes


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.published_parameters])
def test_parameters_are_those_of_the_model_card(name: str) -> None:
    shape = SHAPES[name]
    assert shape.published_parameters == pytest.approx(shape.parameters, rel=0.02)


def test_every_model_of_the_catalogue_has_its_shape() -> None:
    assert set(SHAPES) == {model.name for model in load_catalog().models}


def test_fp8_halves_the_matrices_and_leaves_the_embeddings() -> None:
    shape = SHAPES["qwen2.5-7b-instruct"]
    assert shape.weights_bytes() - shape.weights_bytes(FP8_BYTES) == shape.linear_parameters
    assert shape.weights_bytes(FP8_BYTES) > 2 * shape.embedding_parameters


def test_token_of_a_7b_takes_56_kib_and_half_of_it_on_each_of_two_gpus() -> None:
    shape = SHAPES["qwen2.5-7b-instruct"]
    assert shape.kv_bytes_per_token() == 56 * 1024
    assert shape.kv_bytes_per_token(tensor_parallel=2) == 28 * 1024
    assert shape.kv_bytes_per_token(FP8_BYTES) == 28 * 1024


@given(shapes, st.sampled_from([1, 2, 4, 8, 16]))
def test_more_gpus_never_hold_less_together(shape: ModelShape, gpus: int) -> None:
    """A KV head is never cut, so that beyond kv_heads GPUs each holds a copy."""
    each = shape.kv_bytes_per_token(tensor_parallel=gpus)
    assert each * gpus >= shape.kv_bytes_per_token()
    assert each <= shape.kv_bytes_per_token()
    assert shape.weights_bytes(FP8_BYTES) < shape.weights_bytes()


def test_heads_that_cannot_share_are_refused() -> None:
    with pytest.raises(ValidationError, match="evenly"):
        SHAPES["qwen2.5-7b-instruct"].model_validate(SHAPES["qwen2.5-7b-instruct"].model_dump() | {"kv_heads": 3})
