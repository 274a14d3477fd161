"""What an attempt costs, what was saved, and what a budget still allows."""
