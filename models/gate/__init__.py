"""The learned gate: training of p(the draft is good) from the draft and from agreement with further answers."""
