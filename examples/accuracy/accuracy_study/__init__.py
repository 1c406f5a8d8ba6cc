"""Accuracy study: the same training under several schedules, with and without waiting."""
