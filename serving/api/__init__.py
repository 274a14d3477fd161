"""Wire formats: what each endpoint accepts and how its responses look. No logic."""
