"""SFT on a CPU: the output matrix meets only the tokens of the answer, in the dtype of the weights.

TRL's own loss saves memory by tiles whose gradients are taken in float32; on a CPU that doubled the time of a step.
"""

from typing import Any

import torch
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

IGNORED = -100  # label of a token that is not learned


class CpuSftTrainer(SFTTrainer):  # type: ignore[misc]  # trl is untyped here
    """SFTTrainer with a plain cross entropy over the labelled positions."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean negative log-likelihood of the answer's tokens, in nats."""
        causal = self.accelerator.unwrap_model(model).get_base_model()
        hidden = causal.model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
        ).last_hidden_state[:, :-1]
        targets = inputs["labels"][:, 1:]
        learned = targets != IGNORED
        loss = cross_entropy(causal.lm_head(hidden[learned]).float(), targets[learned], reduction="sum")
        loss = loss / (learned.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)).clamp(1)
        return (loss, {"loss": loss}) if return_outputs else loss
