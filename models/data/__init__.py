"""Cleans what training reads: near duplicates, and prompts of evaluation sets."""
