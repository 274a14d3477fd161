"""Chooses tiers and judges drafts with trained models. A head is a small model on features of a request or draft."""
