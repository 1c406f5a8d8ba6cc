"""Emissions accounting: from turns and ledgers to planned, realised, run-now and hindsight emissions."""
