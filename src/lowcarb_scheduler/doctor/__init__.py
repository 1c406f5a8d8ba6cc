"""Checks of everything that a run needs, before it starts."""
