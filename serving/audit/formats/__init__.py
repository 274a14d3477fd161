"""One file for each format of log that the audit reads."""
