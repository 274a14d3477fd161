"""Whether a request may come in: keys, admission, budgets, idempotency."""
