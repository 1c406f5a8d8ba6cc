"""Task: a line through the points of all sites, which stay at their sites."""

from __future__ import annotations

import numpy as np

SLOPE, OFFSET = 3.0, -1.0  # what the sites' numbers have in common


def new_weights() -> list[np.ndarray]:
    """Return the initial line: slope and offset."""
    return [np.zeros(2)]


def site_data(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the points of a site."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, 64)
    return x, SLOPE * x + OFFSET + rng.normal(0, 0.1, len(x))


def train(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    """Return the line after some steps of gradient descent."""
    slope, offset = weights[0]
    for _ in range(20):
        error = slope * x + offset - y
        slope, offset = slope - 0.5 * np.mean(error * x), offset - 0.5 * np.mean(error)
    return [np.array([slope, offset])]


def loss(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the mean squared error of the line."""
    slope, offset = weights[0]
    return float(np.mean((slope * x + offset - y) ** 2))
