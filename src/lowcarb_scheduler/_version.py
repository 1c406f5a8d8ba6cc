"""The version, on its own so that ``lowcarb --version`` imports nothing else."""

__version__ = "0.1.0"
