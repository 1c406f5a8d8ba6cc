"""Tasks: small models in numpy, trained by the clients on data that few of them share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from accuracy_study.data import DataSet, Examples, breast_cancer, diabetes, digits

if TYPE_CHECKING:
    from collections.abc import Callable

EPOCHS, BATCH = 5, 8
Weights = list[np.ndarray]  # of each layer a matrix (F, K) and an offset (K,)


@dataclass(frozen=True, slots=True)
class Task:
    """A model and the data it learns.

    Parameters
    ----------
    name : str
        Name in tables.
    data : callable
        Returns its data set.
    hidden : int
        Units of the hidden layer; 0 for none.
    rate : float
        Learning rate of the clients.
    """

    name: str
    data: Callable[[], DataSet]
    hidden: int = 0
    rate: float = 0.1

    @property
    def is_regression(self) -> bool:
        """Whether the model predicts a value, and no class."""
        return self.data().train.targets.shape[1] == 1

    @property
    def measure(self) -> str:
        """Name of the value that :meth:`score` returns."""
        return "R², %" if self.is_regression else "accuracy, %"

    def new_weights(self, seed: int) -> Weights:
        """Return initial weights: zero, but random ones into a hidden layer."""
        train = self.data().train
        widths = [train.inputs.shape[1], *([self.hidden] if self.hidden else []), train.targets.shape[1]]
        weights: Weights = []
        for fan_in, fan_out in pairwise(widths):
            weights += [np.zeros((fan_in, fan_out)), np.zeros(fan_out)]
        if self.hidden:
            # Glorot and Bengio's width for tanh; a zero layer would never learn.
            rng, spread = np.random.default_rng([seed, 3]), np.sqrt(6 / (widths[0] + widths[1]))
            weights[0] = rng.uniform(-spread, spread, weights[0].shape)
        return weights

    def train(self, weights: Weights, examples: Examples, rng: np.random.Generator) -> Weights:
        """Return the weights after some epochs of mini-batch gradient descent."""
        own = [layer.copy() for layer in weights]
        for _ in range(EPOCHS):
            for batch in np.array_split(rng.permutation(len(examples)), max(1, len(examples) // BATCH)):
                for layer, slope in zip(own, self.gradient(own, examples[batch]), strict=True):
                    layer -= self.rate * slope
        return own

    def gradient(self, weights: Weights, batch: Examples) -> Weights:
        """Return the gradient of the loss, shaped as the weights."""
        inner = np.tanh(batch.inputs @ weights[0] + weights[1]) if self.hidden else batch.inputs
        error = (self._predict(weights, batch.inputs) - batch.targets) / len(batch)
        found = [inner.T @ error, error.sum(axis=0)]
        if self.hidden:
            back = error @ weights[2].T * (1 - inner**2)
            found = [batch.inputs.T @ back, back.sum(axis=0), *found]
        return found

    def loss(self, weights: Weights, batch: Examples) -> float:
        """Return cross entropy, or half the squared error: the mean over examples."""
        predicted = self._predict(weights, batch.inputs)
        if self.is_regression:
            return float(((predicted - batch.targets) ** 2).sum() / 2 / len(batch))
        return float(-(batch.targets * np.log(predicted)).sum() / len(batch))

    def _predict(self, weights: Weights, inputs: np.ndarray) -> np.ndarray:
        """Return probabilities of classes, or values."""
        inner = np.tanh(inputs @ weights[0] + weights[1]) if self.hidden else inputs
        outputs: np.ndarray = inner @ weights[-2] + weights[-1]
        if self.is_regression:
            return outputs
        raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        probabilities: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
        return probabilities

    def score(self, weights: Weights) -> float:
        """Return the accuracy on test examples, or the part of their variance that is explained [%]."""
        test = self.data().test
        predicted = self._predict(weights, test.inputs)
        if self.is_regression:
            left = float(((predicted - test.targets) ** 2).sum())
            return 100 * (1 - left / float(((test.targets - test.targets.mean()) ** 2).sum()))
        return 100 * float((predicted.argmax(axis=1) == test.targets.argmax(axis=1)).mean())


TASKS: Final = {
    "softmax": Task("digits, softmax", digits),
    "network": Task("digits, network of 32", digits, hidden=32),
    "tumours": Task("tumours, softmax", breast_cancer),
    "diabetes": Task("diabetes, regression", diabetes, rate=0.02),
}
