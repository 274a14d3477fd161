"""Make it happen: HTTP, Ray, vLLM, the frontier, the ledger. A request's path, one line per file:

ingress.py         the HTTP surface: admission.py refuses, intake.py reads, budgets.py reserves; then a Call goes to
cascade.py         the tour: rules, score, draft, gate, frontier, ledger; draws on
  engine.py        tier 1 and the router: a Ray Serve deployment around vLLM (vllm_adapter.py); adapters.py, its LoRAs
  hold.py          holds the draft's frames back until the gate has ruled; signals.py buys what the gate still asks for
  frontier/        OpenAI and Anthropic behind one retry budget and a breaker each
release.py         writes what was released to the client, cancels everything when the client leaves
trace.py           notes what happened; ledger/ stores it, telemetry.py counts it, spans.py sends it to a collector
"""
