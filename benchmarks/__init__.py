"""How good, how fast, how dear? Talks HTTP to a running stack; the only folder that prints reports."""
