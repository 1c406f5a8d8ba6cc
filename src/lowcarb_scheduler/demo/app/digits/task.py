"""Task: softmax regression on scikit-learn's handwritten digits, unevenly split by site."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

PIXELS, DIGITS = 64, 10
Weights = list[np.ndarray]  # [(PIXELS, DIGITS), (DIGITS,)]


@cache
def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train images and labels, test images and labels; images scaled to [0, 1]."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16.0, labels, test_size=0.25, random_state=0, stratify=labels
    )
    return train_x, train_y, test_x, test_y


def site_data(site: int, sites: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels of one site; sites differ in size and in their mix of digits."""
    train_x, train_y, _, _ = load_data()
    rng = np.random.default_rng(7)
    shares = rng.dirichlet(np.full(sites, 0.8), size=DIGITS)  # (DIGITS, sites): part of a digit at each site
    owner = np.array([rng.choice(sites, p=shares[label]) for label in train_y])
    owner[:sites] = np.arange(sites)  # at least one image at every site
    return train_x[owner == site], train_y[owner == site]


def new_weights() -> Weights:
    """Return the initial weights."""
    return [np.zeros((PIXELS, DIGITS)), np.zeros(DIGITS)]


def train(weights: Weights, x: np.ndarray, y: np.ndarray, epochs: int, rate: float, seed: int) -> Weights:
    """Return the weights after some epochs of mini-batch gradient descent."""
    slope, offset = weights[0].copy(), weights[1].copy()
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(len(y)), max(1, len(y) // 16)):
            error = _softmax(x[batch] @ slope + offset) - np.eye(DIGITS)[y[batch]]
            slope -= rate * x[batch].T @ error / len(batch)
            offset -= rate * error.mean(axis=0)
    return [slope, offset]


def accuracy(weights: Weights, x: np.ndarray, y: np.ndarray) -> float:
    """Return the fraction of images that are classified correctly."""
    return float((np.argmax(x @ weights[0] + weights[1], axis=1) == y).mean())


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)
