"""Self-hosted models on vLLM: deployment, flags, adapters, and the client in the gateway."""
