"""Gathers samples and user feedback for training. A user never waits for it, and all of it is off by default.

config.py    how much is kept and asked, of which tenants, for how long, for how many dollars a day
feedback.py  POST /v1/feedback: a client's feedback on one of its requests
sampler.py   keeps redacted texts, sends shadow requests to the frontier, lets a blind judge compare
"""
