"""Planning: pure functions from a job and a table of intensity to a plan.

Arrays, frames and frozen dataclasses in and out; no input or output, no clock, no Flower.
"""
