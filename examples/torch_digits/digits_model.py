"""The handwritten digits for PyTorch, a small network, and the order in which it sees the images.

Nothing here knows that a training can be interrupted. Two habits make it possible that one is: nothing is
drawn at random by a worker process that a checkpoint cannot describe, and the order of an epoch follows
from its number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler

TRAINED_ON, HELD_OUT = 1437, 360  # images


class Digits(NamedTuple):
    """1797 images of 8 x 8 pixels, scaled to 0..1; some of them are never trained on."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_data(seed: int) -> Digits:
    """The digits that scikit-learn brings along (nothing is downloaded), split by the seed alone."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("train.py: scikit-learn is missing: pip install scikit-learn") from None
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    labels = torch.tensor(digits.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train], images[test], labels[test])


class Shaken(Dataset):
    """The images to train on, each moved by up to a pixel. How far is drawn from the epoch and the image,
    not from the random numbers of whichever worker happens to load it: those are nowhere in a checkpoint."""

    def __init__(self, digits: Digits, seed: int) -> None:
        self._images, self._labels = digits.train_images, digits.train_labels
        self._seed = seed

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, wanted: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = wanted
        drawn = torch.Generator().manual_seed((self._seed * 1_000_003 + epoch) * len(self) + index)
        down, right = torch.randint(-1, 2, (2,), generator=drawn).tolist()
        return torch.roll(self._images[index], (down, right), dims=(1, 2)), self._labels[index]


class Batches(Sampler):
    """Batches of (epoch, image) from a place in the training to its end, the images in each epoch's own
    order.

    The loader asks for them well ahead of the step that uses them. So the place is not kept here: whoever
    trains counts what it has used, and begins another time from there.
    """

    def __init__(self, seed: int, batch_size: int, epoch: int, position: int, epochs: int) -> None:
        self._seed, self._batch_size = seed, batch_size
        self._epoch, self._position, self._epochs = epoch, position, epochs

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        position = self._position
        for epoch in range(self._epoch, self._epochs):
            drawn = torch.Generator().manual_seed(self._seed * 7919 + epoch)
            order = torch.randperm(TRAINED_ON, generator=drawn).tolist()
            for begin in range(position, TRAINED_ON, self._batch_size):
                yield [(epoch, index) for index in order[begin : begin + self._batch_size]]
            position = 0


def make_model(hidden: int) -> nn.Module:
    """Drawn from PyTorch's own random numbers, as dropout is in each step."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 64, hidden),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(hidden, 10),
    )


def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of the held-out images that is recognised."""
    model.eval()
    with torch.no_grad():
        right = model(digits.test_images).argmax(dim=1) == digits.test_labels
    model.train()
    return float(right.float().mean())
