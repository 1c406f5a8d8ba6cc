"""Scheduling decisions of a run: deadline, replanning, selection and records. Knows no Flower."""
