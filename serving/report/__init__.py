"""What the stack saved, from the ledger alone: read.py computes it, table.py and page.py show it."""
