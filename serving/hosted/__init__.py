"""The frontier: providers in order behind one retry budget, one deadline and a breaker each; a request's way:

client.py               whom to ask, how long to wait, what a lost try cost; draws on
  retry.py, breaker.py  who is next and when; who is left alone
  openai_provider.py, anthropic_provider.py   one SDK client each, giving pieces of an answer in OpenAI's shape
    translate.py, anthropic_events.py         OpenAI's request as Anthropic's, Anthropic's events as OpenAI's chunks
    errors.py           the table of what each failure means and what helps against it
  answer.py             pieces into frames or one body, and the usage so far; completions.py for the legacy endpoint
"""
