"""A small Keras model on PyTorch: `keras_fit.py VERBOSE`, 3 epochs of 24 batches."""

from __future__ import annotations

import os
import sys

os.environ["KERAS_BACKEND"] = "torch"  # read when Keras is imported

import keras
import numpy as np

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1)])
model.compile("adam", "mse", metrics=["mae"])
images = np.random.rand(480, 8).astype("float32")
answers = images.sum(1, keepdims=True)
model.fit(images, answers, batch_size=16, epochs=3, validation_split=0.2, verbose=int(sys.argv[1]))
