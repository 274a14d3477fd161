"""The kinds of generated tasks, one file for kinds that are alike."""
