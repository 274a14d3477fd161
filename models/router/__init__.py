"""The learned router: data, training, evaluation of p(tier 1 does as well as the frontier)."""
