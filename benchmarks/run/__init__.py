"""One run: its card, the ceiling of the hardware, the sections, and the result that is kept."""
