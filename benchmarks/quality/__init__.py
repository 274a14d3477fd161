"""Router and gate on graded pairs, beside baselines."""
