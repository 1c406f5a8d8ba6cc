"""Task: scikit-learn's handwritten digits, split evenly, and its linear classifier."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split

PIXELS, DIGITS = 64, 10


@cache
def load_data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train images and digits, test images and digits; images scaled to [0, 1]."""
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images / 16.0, digits, test_size=0.25, random_state=0, stratify=digits
    )
    return train_x, train_y, test_x, test_y


def site_data(site: int, sites: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and digits of one site, as many as any other has."""
    train_x, train_y, _, _ = load_data()
    return train_x[site::sites], train_y[site::sites]


def model_of(weights: list[np.ndarray]) -> SGDClassifier:
    """Return a classifier with the given weights."""
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05, random_state=0)
    model.classes_ = np.arange(DIGITS)
    model.coef_, model.intercept_ = weights[0].copy(), weights[1].copy()
    return model


def new_weights() -> list[np.ndarray]:
    """Return the initial weights."""
    return [np.zeros((DIGITS, PIXELS)), np.zeros(DIGITS)]


def train(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray, epochs: int) -> list[np.ndarray]:
    """Return the weights after some passes over a site's images."""
    model = model_of(weights)
    for _ in range(epochs):
        model.partial_fit(x, y, classes=np.arange(DIGITS))
    return [model.coef_, model.intercept_]


def accuracy(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    """Return the accuracy: the part of images that are classified correctly."""
    return float(model_of(weights).score(x, y))
