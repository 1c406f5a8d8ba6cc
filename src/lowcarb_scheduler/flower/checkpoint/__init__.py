"""Checkpoints of a run: atomic storage, encoding without pickle, and resuming."""
