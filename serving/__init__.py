"""Make it happen: HTTP, Ray, vLLM, hosted models, the ledger.

A request's way through the rooms: gateway/routes.py takes it, access/ lets it in, api/ reads its body, and
gateway/answering.py lists the stations. cascade/answer.py is the product. engine/ and hosted/ run the models,
gateway/response.py sends what the gate accepted, and request/trace.py becomes a row of ledger/.
"""
