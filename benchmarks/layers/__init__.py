"""The compounding table: all-frontier, then one layer more in each row, every row measured on the same questions."""
