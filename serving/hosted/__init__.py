"""Asks models behind somebody's API: providers in order, with one retry budget, one deadline and a breaker each.

client.py                which provider to ask, how long to wait, what a lost try cost
retry.py                 which provider is next, and when
breaker.py               which provider is left alone, and how long
providers/               one file for each wire format, with pieces of an answer in OpenAI's shape
faults.py                the table of what each failure means and what helps against it
partial_answer.py        makes frames or one body of the pieces, and knows the usage so far
legacy_completions.py    the legacy completions endpoint at a chat provider
config.py                the `frontier` section of the profile
"""
