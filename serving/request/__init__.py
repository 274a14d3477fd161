"""What travels through the stack: the call, its frames, its trace, and the protocols that a tier implements."""
