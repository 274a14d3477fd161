"""One answer from decision to verdict, and the promoted configuration that decides it."""
