"""From the books to a better stack: labels, exports, promotion.

labels.py    samples and feedback → graded pairs with provenance, capped per tenant
implicit.py  regenerations and rephrasings, read from samples
dedup.py     exact and near duplicates, inside a set and between two
export.py    `models export`: SFT, DPO and router pairs, redacted, split by time, checked against evaluation sets
"""
