"""View of runs while they go on, read from their ledgers alone."""
