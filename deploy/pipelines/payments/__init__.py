"""Card payments from a generator that knows the true probability of fraud."""
