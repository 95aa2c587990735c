"""The handwritten digits, and a network of one hidden layer with its training step, in plain NumPy.

Nothing here knows that a training can be interrupted. It only keeps all that a step depends on in one place,
the `State`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

PIXELS, CLASSES = 64, 10
TRAINED_ON, HELD_OUT = 1437, 360  # images


class Digits(NamedTuple):
    """1797 images of 8 x 8 pixels, scaled to 0..1; some of them are never trained on."""

    train_images: Floats
    train_labels: Integers
    test_images: Floats
    test_labels: Integers


def load_data(seed: int) -> Digits:
    """The bundled digits (nothing is downloaded), shuffled and split by the seed alone."""
    try:
        # here, because it takes a second or two, and a bad option deserves a quick answer
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("train.py: scikit-learn is missing: pip install numpy scikit-learn") from None
    digits = load_digits()
    images: Floats = np.asarray(digits.data, dtype=np.float64) / 16.0
    labels: Integers = np.asarray(digits.target, dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(images[train], labels[train], images[test], labels[test])


@dataclass(frozen=True)
class Recipe:
    """Every option that changes the numbers; saved along, so that nobody continues under others unawares."""

    seed: int
    hidden: int
    batch_size: int = 32
    learning_rate: float = 0.001
    dropout: float = 0.25


@dataclass
class State:
    """Everything that the rest of the training depends on, and therefore what a checkpoint holds."""

    weights: dict[str, Floats]
    mean: dict[str, Floats]  # Adam's running mean of the gradients
    square: dict[str, Floats]  # and of their squares
    rng: np.random.Generator  # drives dropout and the order of the images
    order: Integers  # the images in the order of the present epoch
    position: int = 0  # how many of them the present epoch has used
    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed


def fresh_state(recipe: Recipe) -> State:
    """The state before the first step."""
    rng = np.random.default_rng([recipe.seed, 1])
    weights: dict[str, Floats] = {
        "hidden_weights": rng.normal(0, math.sqrt(2 / PIXELS), (PIXELS, recipe.hidden)),
        "hidden_bias": np.zeros(recipe.hidden),
        "output_weights": rng.normal(0, math.sqrt(2 / recipe.hidden), (recipe.hidden, CLASSES)),
        "output_bias": np.zeros(CLASSES),
    }
    return State(
        weights=weights,
        mean={name: np.zeros_like(weight) for name, weight in weights.items()},
        square={name: np.zeros_like(weight) for name, weight in weights.items()},
        rng=rng,
        order=rng.permutation(TRAINED_ON),
    )


def gradients(
    weights: dict[str, Floats], images: Floats, labels: Integers, kept: Floats
) -> tuple[float, dict[str, Floats]]:
    """Mean cross-entropy of one batch and its gradients; `kept` is the dropout mask, scaled."""
    hidden = np.maximum(images @ weights["hidden_weights"] + weights["hidden_bias"], 0) * kept
    scores = hidden @ weights["output_weights"] + weights["output_bias"]
    scores -= scores.max(axis=1, keepdims=True)  # keeps exp() from overflowing
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(labels))
    loss = -float(log_probabilities[rows, labels].mean())

    at_scores = np.exp(log_probabilities)
    at_scores[rows, labels] -= 1
    at_scores /= len(labels)
    at_hidden = (at_scores @ weights["output_weights"].T) * kept * (hidden > 0)
    return loss, {
        "hidden_weights": images.T @ at_hidden,
        "hidden_bias": at_hidden.sum(axis=0),
        "output_weights": hidden.T @ at_scores,
        "output_bias": at_scores.sum(axis=0),
    }


def adam(state: State, slopes: dict[str, Floats], learning_rate: float) -> None:
    """One update by Adam, with its customary constants; `state.step` counts this step already."""
    decay, square_decay, tiny = 0.9, 0.999, 1e-8
    for name, slope in slopes.items():
        mean, square = state.mean[name], state.square[name]
        mean += (1 - decay) * (slope - mean)
        square += (1 - square_decay) * (slope * slope - square)
        unbiased = mean / (1 - decay**state.step)
        spread = np.sqrt(square / (1 - square_decay**state.step))
        state.weights[name] -= learning_rate * unbiased / (spread + tiny)


def train_step(state: State, digits: Digits, recipe: Recipe) -> float:
    """Train on the next batch and return its loss. Afterwards the state can be saved."""
    batch = state.order[state.position : state.position + recipe.batch_size]
    chance = state.rng.random((len(batch), recipe.hidden))
    kept = (chance >= recipe.dropout) / (1 - recipe.dropout)
    images, labels = digits.train_images[batch], digits.train_labels[batch]
    loss, slopes = gradients(state.weights, images, labels, kept)
    state.step += 1
    adam(state, slopes, recipe.learning_rate)
    state.position += len(batch)
    if state.position == len(state.order):
        state.epoch, state.position = state.epoch + 1, 0
        state.order = state.rng.permutation(len(state.order))
    return loss


def accuracy(weights: dict[str, Floats], digits: Digits) -> float:
    """The share of the held-out images that is recognised."""
    hidden = digits.test_images @ weights["hidden_weights"] + weights["hidden_bias"]
    scores = np.maximum(hidden, 0) @ weights["output_weights"] + weights["output_bias"]
    return float((scores.argmax(axis=1) == digits.test_labels).mean())
