"""Child processes and loopback."""
