"""Tracks what each replica has cached and how busy it is. Ranking itself is in routing/replicas/."""
