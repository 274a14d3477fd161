"""Wire formats: what each endpoint accepts and how its answers look. No logic."""
