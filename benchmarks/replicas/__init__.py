"""Replica routing: a trace replayed under our policy and the published ones, and loads on running engines."""
