"""The dimensions of a decoder, and how many bytes its weights and its KV cache take. Arithmetic alone.

The numbers are those of a model's config.json. The catalog (models/weights/catalog.yaml) has them for models that are
not on this machine.
"""

from typing import Self

from pydantic import Field, model_validator

from routing.records import Record

BF16_BYTES = 2
FP8_BYTES = 1


class ModelShape(Record):
    """A dense or mixture-of-experts transformer decoder with grouped-query attention and a gated MLP."""

    layers: int = Field(ge=1)
    hidden: int = Field(ge=1)
    intermediate: int = Field(ge=1, description="of the MLP, or of one expert when there are experts")
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    tied_embeddings: bool = Field(description="the output layer is the embedding, stored once")
    qkv_bias: bool = Field(False, description="Qwen2")
    qk_norm: bool = Field(False, description="Qwen3")
    experts: int = Field(0, ge=0, description="0: dense")
    published_parameters: float | None = Field(None, gt=0, description="the model card's, as rounded there")
    source: str | None = Field(None, description="where the numbers were read")

    @model_validator(mode="after")
    def _heads_share_evenly(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.kv_heads} KV heads evenly")
        return self

    @property
    def embedding_parameters(self) -> int:
        """Input embedding and, unless tied, the output layer. Quantisation leaves both alone."""
        return self.vocabulary * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def linear_parameters(self) -> int:
        """The matrices of attention and MLP, which weight quantisation makes smaller."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * q + 2 * kv)
        mlp = 3 * self.hidden * self.intermediate * max(1, self.experts)
        return self.layers * (attention + mlp)

    @property
    def other_parameters(self) -> int:
        """Norms, biases and the experts' router."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        per_layer = 2 * self.hidden + self.experts * self.hidden
        per_layer += (q + 2 * kv if self.qkv_bias else 0) + (2 * self.head_dim if self.qk_norm else 0)
        return self.layers * per_layer + self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.embedding_parameters + self.linear_parameters + self.other_parameters

    def weights_bytes(self, linear_bytes: int = BF16_BYTES) -> int:
        """Bytes of the loaded weights. linear_bytes: of one parameter of the matrices, FP8_BYTES when quantised."""
        return linear_bytes * self.linear_parameters + BF16_BYTES * (self.embedding_parameters + self.other_parameters)

    def lora_bytes(self, rank: int) -> int:
        """Bytes of one bfloat16 LoRA adapter of that rank on every matrix: (in + out) * rank numbers each."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * (self.hidden + q) + 2 * (self.hidden + kv)
        mlp = 3 * (self.hidden + self.intermediate) * max(1, self.experts)
        return BF16_BYTES * rank * self.layers * (attention + mlp)

    def kv_bytes_per_token(self, value_bytes: int = BF16_BYTES, tensor_parallel: int = 1) -> int:
        """Bytes of one token's keys and values on each of tensor_parallel GPUs, which hold one KV head or more."""
        return 2 * self.layers * -(-self.kv_heads // tensor_parallel) * self.head_dim * value_bytes
