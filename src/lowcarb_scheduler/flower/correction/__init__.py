"""Participation correction: memories of locations make up for those that a round has too little of."""
