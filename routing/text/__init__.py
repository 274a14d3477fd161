"""Facts about a text: language, category, loops, refusals, secrets."""
