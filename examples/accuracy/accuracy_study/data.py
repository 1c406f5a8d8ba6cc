"""Data: three real data sets that scikit-learn ships, dealt out to clients unevenly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.model_selection import train_test_split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

By = Literal["region", "client"]
DECILES = 10


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs, shape (I, F), and targets, shape (I, K): one-hot classes, or one standardised value (K = 1)."""

    inputs: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, chosen: np.ndarray) -> Examples:
        return Examples(self.inputs[chosen], self.targets[chosen])


@dataclass(frozen=True, slots=True)
class DataSet:
    """Data set: examples that clients share out among them, and test examples that nobody trains on.

    Parameters
    ----------
    train, test : Examples
        The examples.
    group : ndarray of int, shape (I,)
        Group of each training example, of which a client sees few: its class, or the decile of its value.
    """

    train: Examples
    test: Examples
    group: np.ndarray


@dataclass(frozen=True, slots=True)
class Skew:
    """How unevenly data are dealt out.

    Parameters
    ----------
    concentration : float
        Concentration of the Dirichlet distribution of which tastes are drawn [1]_: the smaller, the fewer
        groups of examples a client sees; infinite for none, everybody's data are alike.
    by : {"region", "client"}
        Whether clients of a region share a taste, or each has its own.
    sizes : float
        Largest number of examples a client has, in units of the smallest: 1 for equally many.
    sizes_by : {"region", "client"}
        Whether clients of a region have equally many.

    References
    ----------
    .. [1] T. H. Hsu, H. Qi, M. Brown, "Measuring the effects of non-identical data distribution for federated
       visual classification", 2019, arXiv:1909.06335.
    """

    concentration: float = 0.1
    by: By = "region"
    sizes: float = 1.0
    sizes_by: By = "client"


def split(data: DataSet, skew: Skew, region_of: np.ndarray, rng: np.random.Generator) -> list[Examples]:
    """Deal out training examples, each to one client at most.

    Clients take one example after the other in turns, until each has its number.

    Parameters
    ----------
    data : DataSet
        The data set.
    skew : Skew
        How uneven the parts are.
    region_of : ndarray of int, shape (C,)
        Region of each client.
    rng : numpy.random.Generator
        Draws tastes, sizes and examples.
    """
    groups, clients = int(data.group.max()) + 1, len(region_of)
    own = np.arange(clients)
    taste = np.ones((clients, groups))
    if np.isfinite(skew.concentration):
        taster = region_of if skew.by == "region" else own
        taste = rng.dirichlet(np.full(groups, skew.concentration), int(taster.max()) + 1)[taster]
    share = np.ones(clients)
    if skew.sizes > 1:
        sized = region_of if skew.sizes_by == "region" else own
        share = (skew.sizes ** rng.random(int(sized.max()) + 1))[sized]
    number = np.maximum(1, np.floor(len(data.train) * share / share.sum() + 1e-9)).astype(int)
    left = [list(rng.permutation(np.flatnonzero(data.group == group))) for group in range(groups)]
    owned: list[list[int]] = [[] for _ in region_of]
    for turn in range(int(number.max())):
        for client in rng.permutation(np.flatnonzero(number > turn)):
            # Where all of its own groups are gone a client takes what there is.
            weight = (taste[client] + 1e-9) * [len(each) for each in left]
            owned[client].append(left[rng.choice(groups, p=weight / weight.sum())].pop())
    return [data.train[np.array(each)] for each in owned]


@cache
def digits() -> DataSet:
    """Return 1797 images of handwritten digits, 64 grey levels in [0, 1] each."""
    return _classes(load_digits, lambda pixels: pixels / 16.0)


@cache
def breast_cancer() -> DataSet:
    """Return 569 tumours, 30 standardised measures each, benign or malignant."""
    return _classes(load_breast_cancer, _standardised)


@cache
def diabetes() -> DataSet:
    """Return 442 patients, 10 standardised measures each, and the progress of their disease after a year."""
    inputs, values = load_diabetes(return_X_y=True)
    decile = np.searchsorted(np.quantile(values, np.arange(1, DECILES) / DECILES), values)
    train, test = _parts(decile)
    targets = ((values - values[train].mean()) / values[train].std())[:, None]
    inputs = _standardised(inputs)
    return DataSet(
        Examples(inputs[train], targets[train]), Examples(inputs[test], targets[test]), decile[train]
    )


def _classes(
    read: Callable[..., Sequence[np.ndarray]], scaled: Callable[[np.ndarray], np.ndarray]
) -> DataSet:
    inputs, classes = read(return_X_y=True)
    train, test = _parts(classes)
    inputs, targets = scaled(inputs), np.eye(int(classes.max()) + 1)[classes]
    return DataSet(
        Examples(inputs[train], targets[train]), Examples(inputs[test], targets[test]), classes[train]
    )


def _parts(group: np.ndarray) -> Sequence[np.ndarray]:
    """Return the positions of training and test examples, groups alike in both."""
    parts: list[np.ndarray] = train_test_split(
        np.arange(len(group)), test_size=0.25, random_state=0, stratify=group
    )
    return parts


def _standardised(inputs: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    return scaled
