"""Measures how good, how fast and how expensive a stack is. It talks HTTP to it and prints the reports."""
