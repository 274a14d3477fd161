"""Make it better next time: weights, labels, training, promotion. Reads the ledger, writes manifests."""
