"""What should happen? Decisions, prices and scores as plain functions: no I/O, no clock, no network."""
