"""Estimates what a tiered stack would save. Reads past traffic, needs no running service, and names what is unknown.

formats/: log_file.py reads lines. openai_log.py, ledger_export.py, trace_log.py and mapped_log.py turn them into calls.
traffic/: accounts.py, arrivals.py, prefix_reuse.py and sample.py add the calls up in bounded memory. survey.py drives
them in one pass.
forecast/: outlook.py draws the conclusions with routing's cost model. prediction.py checks them against a ledger.
table.py and page.py print them.
"""
