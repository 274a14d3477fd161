"""Turns the ledger into a better stack: labels, exports, promotion.

labels.py    samples and feedback → graded pairs with provenance, capped per tenant
implicit.py  regenerations and rephrasings, read from samples
export.py    `models export`: SFT, DPO and router pairs, redacted, split by time, checked against evaluation sets
candidate.py which candidate may be promoted, and by which name another is refused (refused.py)
registry.py  the folder of artefacts, the release that serving reads, the audit log
steps.py     canary, promotion, rollback
monitor.py   live quality and cost of a release against the one before: has it turned?
drift.py     `models drift`: live signals against those that thresholds were calibrated on
round.py     `models flywheel once|watch`; register.py, promote.py, rollback.py and history.py are commands, too
"""
