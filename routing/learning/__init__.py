"""What may be learned from and promoted, quality measures, drift."""
