"""Whether a draft is good enough."""
