"""LoRA weights kept in float32 and used in the dtype of the activations.

Weights that are themselves bfloat16 lose most of an optimizer's step to rounding (of 0.02 the next number is 0.00012
away), and a training on them diverged. Activations cast up to float32 weights double the time of a step on a CPU.
"""

from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch.nn.functional import linear


class CastDown(torch.nn.Linear):
    """A linear layer whose weight is cast to its input's dtype; its gradient comes back in the weight's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Shape (..., in) to (..., out)."""
        return linear(input, self.weight.to(input.dtype))


def cast_down(model: Any) -> None:
    """Let every LoRA matrix of a PEFT model work in its input's dtype. Changes the model, not its state."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False
            for pair in (module.lora_A, module.lora_B):
                for matrix in pair.values():
                    matrix.__class__ = CastDown
