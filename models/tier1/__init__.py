"""Fine-tuning of tier 1: data, LoRA training with TRL and PEFT, base against adapter on held-out prompts."""
