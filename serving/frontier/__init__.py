"""The frontier client: providers in order behind one retry budget, one deadline and a breaker each."""
