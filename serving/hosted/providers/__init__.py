"""One file for each provider's wire format."""
