"""Flower side: strategies that follow a plan, holds, checkpoints, and clients that report their turns."""
