"""Fetches, checks and converts the weights of models."""
