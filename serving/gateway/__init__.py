"""The HTTP process: routes, request to call, response, health, dashboard, tokenizer."""
