"""Trains, calibrates and scores the heads of router and gate."""
