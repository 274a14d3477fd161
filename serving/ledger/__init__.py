"""The exactly-once attempt ledger: one row per request, one per attempt, settled in `finally`."""
