"""Task: softmax regression on scikit-learn's handwritten digits, with few digits per region."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

PIXELS, DIGITS = 64, 10
EPOCHS, RATE, BATCH = 5, 0.1, 8
SKEW = 0.1  # of the Dirichlet distribution: the smaller, the fewer digits a region sees
Weights = list[np.ndarray]  # [(PIXELS, DIGITS), (DIGITS,)]


@dataclass(frozen=True, slots=True)
class Images:
    """Images of digits, shape (I, PIXELS), scaled to [0, 1], and their labels, shape (I,)."""

    pixels: np.ndarray
    digits: np.ndarray

    def __len__(self) -> int:
        return len(self.digits)


@cache
def load() -> tuple[Images, Images]:
    """Return training images, which clients share, and test images."""
    pixels, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels / 16.0, digits, test_size=0.25, random_state=0, stratify=digits
    )
    return Images(train_x, train_y), Images(test_x, test_y)


def split(region_of: np.ndarray, rng: np.random.Generator) -> list[Images]:
    """Split the images among clients; most images of a region show a few digits.

    Tastes are drawn from a Dirichlet distribution, as is usual for federated learning on uneven data [1]_.
    The clients take one image after the other in turns, so that all have equally many.

    Parameters
    ----------
    region_of : ndarray of int, shape (C,)
        The region of each client.
    rng : numpy.random.Generator
        Draws tastes and images.

    References
    ----------
    .. [1] T. H. Hsu, H. Qi, M. Brown, "Measuring the effects of non-identical data distribution for federated
       visual classification", 2019, arXiv:1909.06335.
    """
    images, _ = load()
    taste = rng.dirichlet(np.full(DIGITS, SKEW), int(region_of.max()) + 1)
    left = [list(rng.permutation(np.flatnonzero(images.digits == digit))) for digit in range(DIGITS)]
    owned: list[list[int]] = [[] for _ in region_of]
    for _ in range(len(images) // len(region_of)):
        for client in rng.permutation(len(region_of)):
            # Where all of its digits are gone it takes what there is.
            weight = (taste[region_of[client]] + 1e-9) * [len(each) for each in left]
            owned[client].append(left[rng.choice(DIGITS, p=weight / weight.sum())].pop())
    return [Images(images.pixels[own], images.digits[own]) for own in owned]


def new_weights() -> Weights:
    """Return the initial weights."""
    return [np.zeros((PIXELS, DIGITS)), np.zeros(DIGITS)]


def train(weights: Weights, images: Images, rng: np.random.Generator) -> Weights:
    """Return the weights after some epochs of mini-batch gradient descent."""
    slope, offset = weights[0].copy(), weights[1].copy()
    for _ in range(EPOCHS):
        for batch in np.array_split(rng.permutation(len(images)), max(1, len(images) // BATCH)):
            pixels, digits = images.pixels[batch], images.digits[batch]
            scores = pixels @ slope + offset
            raised = np.exp(scores - scores.max(axis=1, keepdims=True))
            error = raised / raised.sum(axis=1, keepdims=True) - np.eye(DIGITS)[digits]
            slope -= RATE * pixels.T @ error / len(batch)
            offset -= RATE * error.mean(axis=0)
    return [slope, offset]


def right(weights: Weights) -> int:
    """Return the number of test images that are classified correctly."""
    _, test = load()
    return int((np.argmax(test.pixels @ weights[0] + weights[1], axis=1) == test.digits).sum())
