"""The parts of a run: each measures rows and prints them."""
