"""Reads files that training made or that were fetched."""
