"""Emissions accounting: planned, realised, run-now and hindsight emissions, from turns and ledgers."""
