"""Which tier a request goes to first, and which comes next."""
