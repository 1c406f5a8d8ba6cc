"""Task: scikit-learn's handwritten digits, split evenly, and a small convolutional network."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

DIGITS, SIDE, BATCH = 10, 8, 16
Images = tuple[Tensor, Tensor]  # (I, 1, SIDE, SIDE) in [0, 1], and what they show (I,)


class Net(nn.Sequential):
    """Network of one convolution and one hidden layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(16 * (SIDE // 2) ** 2, 32), nn.ReLU(), nn.Linear(32, DIGITS),
        )  # fmt: skip


@cache
def load_data() -> tuple[Images, Images]:
    """Return training and test images."""
    images, digits = load_digits(return_X_y=True)
    parts = train_test_split(images / 16.0, digits, test_size=0.25, random_state=0, stratify=digits)
    train_x, test_x = (torch.tensor(x, dtype=torch.float32).reshape(-1, 1, SIDE, SIDE) for x in parts[:2])
    train_y, test_y = (torch.tensor(y) for y in parts[2:])
    return (train_x, train_y), (test_x, test_y)


def site_data(site: int, sites: int) -> Images:
    """Return the images of one site, as many as any other has."""
    (x, y), _ = load_data()
    return x[site::sites], y[site::sites]


def train(model: Net, images: Images, epochs: int) -> None:
    """Train a model on some images."""
    x, y = images
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()


def accuracy(model: Net, images: Images) -> float:
    """Return the accuracy: the part of images that are classified correctly."""
    x, y = images
    model.eval()
    with torch.no_grad():
        return float((model(x).argmax(dim=1) == y).float().mean())
