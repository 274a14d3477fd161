"""What a running stack gathers so that it can learn; nothing of it is on the user's path, nothing is on by default.

config.py    how much is kept and asked, whose, for how long, for how many dollars a day
feedback.py  POST /v1/feedback: a client's word on one of its requests
sampler.py   keeps redacted texts, asks the frontier in the shadow of tier 1, lets a blind judge compare
"""
